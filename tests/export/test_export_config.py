"""`[export]` of a TOML file: typed, by name, and each limit found where it stands."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

import pytest

from foldline.cli import main
from foldline.errors import FoldlineError
from foldline.export.config import LIMITS, GateConfig, LimitKeys, Limits, load_export_config
from foldline.export.stages import PRECISIONS

ROOT = Path(__file__).resolve().parents[2]


def test_every_precision_has_its_limits_and_every_limit_its_key() -> None:
    assert tuple(LIMITS) == PRECISIONS
    assert {item.name for item in fields(Limits)} == {item.name for item in fields(LimitKeys)}
    for precision in PRECISIONS:
        assert GateConfig().limits(precision) == LIMITS[precision]
    loose, tight = asdict(LIMITS["bf16"]), asdict(LIMITS["fp32"])
    assert all(loose[name] >= tight[name] for name in tight)


def test_a_limit_is_taken_from_its_precision_then_from_the_gate_then_from_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "export.toml"
    path.write_text("[export.gate]\nrmsd = 0.7\nlddt = 0.1\n[export.gate.bf16]\nrmsd = 0.3\n")
    gate = load_export_config(path, ("export.gate.fp16.ptm=0.5",)).gate
    assert [gate.limits(precision).rmsd for precision in ("fp32", "bf16", "fp16")] == [0.7, 0.3, 0.7]
    assert gate.limits("bf16").lddt == 0.1
    assert (gate.limits("fp16").ptm, gate.limits("bf16").ptm) == (0.5, LIMITS["bf16"].ptm)


def test_without_a_file_the_overrides_alone_count() -> None:
    config = load_export_config(None, ("export.gate.rmsd=0.05", "export.gate.bins=[64, 128]", "export.gate.covered_bins=1"))
    assert (config.gate.limits("fp32").rmsd, config.gate.bins, config.engine) == (0.05, (64, 128), "auto")
    assert load_export_config(ROOT / "examples" / "demo_export.toml", ()).gate.bins == (128,)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("export.gate.rmds=0.05", "unknown key 'export.gate.rmds'; did you mean 'rmsd'?"),
        ("export.gate.bf16.lddtt=1", "unknown key 'export.gate.bf16.lddtt'; did you mean 'lddt'?"),
        ("export.bench.repeat=1", "unknown key 'export.bench.repeat'; did you mean 'repeats'?"),
        ("gate.rmsd=1", "unknown key 'gate'"),
        ("export.gate.rmsd=tight", "export.gate.rmsd: input should be a valid number"),
        ("export.gate.rmsd=-0.1", "export.gate.rmsd = -0.1 must be at least 0"),
        ("export.gate.rmsd=nan", "rmsd"),
        ("export.gate.bins=[256, 128]", r"export.gate.bins = \[256, 128\] must rise"),
        ("export.gate.bins=[]", "must rise"),
        ("export.gate.covered_bins=5", "export.gate.covered_bins = 5 must lie between 1 and 4"),
        ("export.gate.padding=-1", "export.gate.padding = -1 must be at least 0"),
        ("export.bench.repeats=-1", "export.bench.repeats = -1 must be at least 0"),
        ("export.bench.compile=perhaps", "export.bench.compile = 'perhaps' is none of auto, always, never"),
    ],
)
def test_a_wrong_key_or_value_is_named(override: str, words: str) -> None:
    with pytest.raises(FoldlineError, match=words):
        load_export_config(None, (override,))


def test_the_command_line_names_a_wrong_key(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", "--run", str(run_dir), "--out", str(tmp_path / "b"), "--set", "export.gate.rmds=1"]
    assert main(arguments) == 2
    assert "did you mean 'rmsd'?" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
