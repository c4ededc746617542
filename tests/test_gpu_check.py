"""The checks of `make gpu-check` on the CPU: every one of them runs, and a wrong weight is found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldline.benchmarks.gpu.harness import CHECKS, FAIL, NOT_RUN, PASS, SKIPPED, Report, Settings, run_all
from foldline.tests.reference.model_cases import CASES, REFERENCE

ROOT = Path(__file__).resolve().parents[1]
REFERENCE_CHECKS = ("modules", "network")
needs_reference = pytest.mark.skipif(
    not (REFERENCE / "modules").is_dir(), reason=f"no reference folder at {REFERENCE} (FOLDLINE_REFERENCE)"
)


def run(out: Path, *arguments: str, reference: Path = REFERENCE) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu_check.py"),
        "--device",
        "cpu",
        "--small",
        "--minutes",
        "14",
        "--out",
        str(out),
        *arguments,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "FOLDLINE_REFERENCE": str(reference)}
    done = subprocess.run(command, env=environment, cwd=out, capture_output=True, text=True, timeout=900, check=False)
    return done, json.loads((out / "gpu_check.json").read_text())["checks"]


def test_dry_run_passes_and_the_summary_names_every_check(tmp_path: Path) -> None:
    done, checks = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(checks) == list(CHECKS)
    without = set() if (REFERENCE / "modules").is_dir() else set(REFERENCE_CHECKS)
    assert {name: check["status"] for name, check in checks.items()} == {n: NOT_RUN if n in without else PASS for n in CHECKS}
    assert all(check["rows"] for check in checks.values())


@pytest.fixture
def little_reference(tmp_path: Path) -> Path:
    """A copy of one module case and one case of the whole network."""
    folder = tmp_path / "reference"
    (folder / "modules").mkdir(parents=True)
    for name in ("index.json", "attention_gating1.npz"):
        shutil.copy(REFERENCE / "modules" / name, folder / "modules")
    shutil.copytree(REFERENCE / "model_tiny" / CASES[-1], folder / "model_tiny" / CASES[-1])
    return folder


def spoil(path: Path, prefix: str) -> None:
    """One weight matrix 1 % too large."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    name = next(key for key in arrays if key.startswith(prefix) and key.endswith(("weights", "_w")))
    np.savez(path, **{**arrays, name: arrays[name] * np.float32(1.01)})


@needs_reference
def test_a_wrong_weight_fails_both_comparisons(little_reference: Path) -> None:
    out = little_reference.parent
    done, checks = run(out, "--only", *REFERENCE_CHECKS, reference=little_reference)
    assert done.returncode == 0, done.stdout + done.stderr
    spoil(little_reference / "modules" / "attention_gating1.npz", "param/")
    spoil(little_reference / "model_tiny" / CASES[-1] / "params.npz", "alphafold/alphafold_iteration/evoformer/left_single")
    done, checks = run(out, "--only", *REFERENCE_CHECKS, reference=little_reference)
    assert done.returncode == 1
    for name in REFERENCE_CHECKS:
        assert checks[name]["status"] == FAIL
        failed = [row["name"] for row in checks[name]["rows"] if row["status"] == FAIL]
        assert failed
        assert all("DeepMind" in row for row in failed), "float64 on the CPU has the same wrong weight"


def settings(tmp_path: Path, minutes: float = 1.0) -> Settings:
    return Settings.start("cpu", True, minutes, tmp_path / "nowhere", tmp_path)


def results(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "gpu_check.json").read_text())["checks"]


def test_one_check_that_raises_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(report: Report, _: Settings) -> None:
        raise RuntimeError("CUDA error: an illegal memory access")

    def incomplete(report: Report, _: Settings) -> None:
        import a_package_that_nobody_has  # noqa: F401

    monkeypatch.setattr("foldline.benchmarks.gpu.modules.check", broken)
    monkeypatch.setattr("foldline.benchmarks.gpu.network.check", incomplete)
    assert run_all(settings(tmp_path), ["device", *REFERENCE_CHECKS, "equality"], tmp_path) == 1
    found = results(tmp_path)
    assert [check["status"] for check in found.values()] == [PASS, "error", NOT_RUN, PASS]
    assert "illegal memory access" in found["modules"]["rows"][0]["note"]
    assert "a_package_that_nobody_has" in found["network"]["rows"][0]["note"]


def test_what_does_not_fit_the_time_is_skipped_and_does_not_pass(tmp_path: Path) -> None:
    assert run_all(settings(tmp_path, minutes=-1.0), ["device", "inference"], tmp_path) == 1
    assert {check["status"] for check in results(tmp_path).values()} == {SKIPPED}


def test_no_figure_is_no_pass() -> None:
    report = Report("x")
    report.at_most("nan", float("nan"), 1.0)
    report.at_most("fine", 0.5, 1.0)
    assert [row.status for row in report.rows] == [FAIL, PASS]
    assert report.status == FAIL


def test_an_unknown_check_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all(settings(tmp_path), ["modlues"], tmp_path) == 2
    assert "modlues" in capsys.readouterr().err
