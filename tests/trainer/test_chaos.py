"""`foldline chaos` itself: a real training under faults of several kinds here, of every kind in the slow test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foldline.data_store.ingest import ingest
from foldline.trainer.chaos.clock import absent
from foldline.trainer.chaos.command import KINDS

ROOT = Path(__file__).resolve().parents[2]


def chaos(folder: Path, faults: int, *more: str) -> tuple[dict[str, Any], str]:
    """Run the suite on the example's config; its report, and what it printed."""
    ingest(ROOT / "examples" / "demo", folder / "store")
    program = [sys.executable, "-m", "foldline.cli", "chaos", "--config", str(ROOT / "examples" / "chaos.toml"), "--faults", str(faults)]
    words = ["--out", str(folder / "out"), f'--set=data.store="{folder / "store"}"', *more]
    done = subprocess.run([*program, *words], capture_output=True, text=True, check=False, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything holds" in done.stdout
    report: dict[str, Any] = json.loads((folder / "out" / "chaos.json").read_text())
    assert report["holds"]
    assert all(not check["problems"] for check in report["checks"])
    return report, done.stdout


def left_out() -> set[str]:
    """The kinds that this machine cannot have."""
    return ({"disk full"} if os.geteuid() else set()) | ({"clock jump"} if absent() else set())


def test_a_training_bears_a_few_faults(tmp_path: Path) -> None:
    only = ["checkpoint truncated", "tracking killed", "disk full", "clock jump"]
    report, printed = chaos(tmp_path, 4, *(f"--only={kind}" for kind in only), "--seed=16", "--set=run.steps=30", "--set=data.workers=0")
    assert {fault["fault"]["kind"] for fault in report["faults"]} >= set(only) - left_out()
    for kind in set(only) - left_out():
        assert kind in printed
    *before, last = report["codes"]
    assert (set(before), last) == ({137}, 0)  # started again for a checkpoint alone


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_training_bears_twenty_faults_of_every_kind(tmp_path: Path, seed: int) -> None:
    report, _ = chaos(tmp_path, 20, f"--seed={seed}")
    assert len(report["faults"]) == 20
    assert {fault["fault"]["kind"] for fault in report["faults"]} == KINDS.keys() - left_out()
    assert report["left_out"].keys() == left_out()
