"""Who is measured beside an engine, and the command that writes it into the engine's report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from foldline.cli import main
from foldline.errors import FoldlineError
from foldline.export.config import BenchConfig
from foldline.export.contenders import contenders
from foldline.export.core import Core
from foldline.export.engine_store import Engine, engines_of
from foldline.tests.export import cases
from foldline.tests.export.conftest import FEATURES, SHORT_GATE

CORE = Core(Path("bundle"), cases.small(), FEATURES, "", 18)


def engine(kind: str, precision: str, device: str) -> Engine:
    return Engine(Path("engine"), {"identity": "ab" * 32, "depends": {"kind": kind, "precision": precision, "device": device}}, None)


@pytest.mark.parametrize(
    ("one", "compiled", "expected"),
    [
        (engine("onnxruntime", "fp32", "cpu"), "never", ["PyTorch fp32", "onnxruntime engine"]),
        (engine("onnxruntime", "fp32", "cpu"), "auto", ["PyTorch fp32", "torch.compile fp32", "onnxruntime engine"]),
        (engine("tensorrt", "bf16", "cuda"), "auto", ["PyTorch fp32", "PyTorch bf16", "torch.compile bf16", "tensorrt engine"]),
        (engine("tensorrt", "bf16", "cuda"), "never", ["PyTorch fp32", "PyTorch bf16", "tensorrt engine"]),
        (engine("onnxruntime", "fp16", "tensorrt"), "never", ["PyTorch fp32", "PyTorch fp16", "onnxruntime engine"]),
        (engine("onnxruntime", "fp16", "cpu"), "never", ["PyTorch fp32", "onnxruntime engine"]),
    ],
)
def test_pytorch_in_float32_comes_first_and_in_the_engines_precision_beside_it(one: Engine, compiled: str, expected: list[str]) -> None:
    given, left_out = contenders(CORE, one, BenchConfig(compile=compiled))
    assert list(given) == expected
    assert bool(left_out) == ("torch.compile" not in " ".join(expected))


def test_compiling_without_a_compiler_is_an_error_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        FoldlineError, match=r"'no-such-compiler' is not there; install it, set CXX, or give --set export.bench.compile=never"
    ):
        contenders(CORE, engine("onnxruntime", "fp32", "cpu"), BenchConfig(compile="always"))


def test_without_a_compiler_the_report_says_why_a_contender_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    given, left_out = contenders(CORE, engine("onnxruntime", "fp32", "cpu"), BenchConfig())
    assert list(given) == ["PyTorch fp32", "onnxruntime engine"]
    assert left_out == ["torch.compile: it needs a C++ compiler on a CPU, and 'no-such-compiler' is not there"]


@pytest.mark.slow
def test_by_default_eager_compiled_and_engine_stand_in_the_report(exported: Path, tmp_path: Path) -> None:
    """In a process of its own: torch's compilers cannot trace functions in which annotations are checked, as they are in this one."""
    bundle = tmp_path / "bundle"
    shutil.copytree(exported, bundle)
    settings = [f"--set=export.{key}" for key in (*SHORT_GATE[:-1], "bench.repeats=1")]
    command = [sys.executable, "-m", "foldline.cli", "engine", "bench", str(bundle), *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (after,) = engines_of(bundle)
    assert after.gate is not None
    cells = after.gate["bench"]["cells"]
    assert [cell["contender"] for cell in cells] == ["PyTorch fp32", "torch.compile fp32", "onnxruntime engine"]
    assert all(cell["rmsd"] < 0.02 and cell["peak"]["bytes"] > 0 for cell in cells)


def test_the_bench_stands_in_the_engines_report(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(exported, bundle)
    (before,) = engines_of(bundle)
    settings = [f"--set=export.{key}" for key in (*SHORT_GATE, "bench.repeats=1", "bench.memory=false", "bench.compile=never")]
    assert main(["engine", "bench", str(bundle), *settings]) == 0
    printed = capsys.readouterr().out
    assert "Δ lDDT-Cα" in printed
    assert "RMSD" in printed
    (after,) = engines_of(bundle)
    after.verify()
    assert before.gate is not None
    assert after.gate is not None
    assert before.gate["bench"] is None
    assert after.gate["checks"] == before.gate["checks"]
    cells = after.gate["bench"]["cells"]
    assert [cell["contender"] for cell in cells] == ["PyTorch fp32", "onnxruntime engine"]
    assert all(cell["rmsd"] < 0.02 for cell in cells)
    assert "seconds per fold" in (after.path / "gate.html").read_text()
    assert sorted(path.name for path in after.path.parent.iterdir()) == [after.path.name]


def test_no_speed_is_told_of_an_engine_without_a_gate(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(exported, bundle)
    (one,) = engines_of(bundle)
    for name in ("gate.json", "gate.html"):
        (one.path / name).unlink()
    assert main(["engine", "bench", str(bundle), one.identity[:12]]) == 2
    assert "is not gated; give: foldline engine gate" in capsys.readouterr().err
    assert json.loads((one.path / "engine.json").read_text())["identity"] == one.identity
