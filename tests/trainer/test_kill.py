"""SIGKILL of every rank between two checkpoints: 5 steps and 5 more are the 10 of an undisturbed run, bit for bit, at every ZeRO stage."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from foldline.data_store.ingest import ingest
from foldline.trainer.journal import Record, read_journal

from .test_run import ROOT, command, untimed, write_config

STEPS = 10
OVERRIDES = [f"run.steps={STEPS}", "run.checkpoint_every=5", "tracking.mlflow=false", "validate.every=0"]
# Sums over other ranks and in other slices: of the losses of the steps that follow.
TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "store"
    ingest(ROOT / "examples" / "demo", path)
    return path


def finish(config: Path, overrides: list[str], *more: str, ranks: int = 2) -> str:
    done = subprocess.run(
        command(config, *more, overrides=overrides, ranks=ranks), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kill_all_after_five(config: Path, run: Path, overrides: list[str]) -> None:
    """Start, and kill launcher and ranks at once when the checkpoint of step 5 is there and further steps are journalled or under way."""
    job = subprocess.Popen(command(config, overrides=overrides), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 240
    while not (run / "checkpoints" / "step_00000005" / "manifest.json").exists():
        assert job.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    everyone = psutil.Process(job.pid).children(recursive=True)
    for process in everyone:
        if "foldline.cli" in process.cmdline():
            os.kill(process.pid, signal.SIGKILL)
    job.kill()
    job.wait(60)
    psutil.wait_procs(everyone, timeout=60)
    assert not (run / "checkpoints" / f"step_{STEPS:08d}").exists(), "the run was over before it was killed"


def history(run: Path) -> list[Record]:
    return [record for record in read_journal(run / "metrics.jsonl") if record.kind == "train"]


def check_equal(one: Path, other: Path) -> None:
    for mine, theirs in zip(history(one), history(other), strict=True):
        assert mine.step == theirs.step
        assert untimed(mine) == untimed(theirs)
    for name in ("model", "ema", "rank_00000", "rank_00001"):  # Adam's moments are in the ranks' files
        mine, theirs = (load_file(run / "checkpoints" / f"step_{STEPS:08d}" / f"{name}.safetensors") for run in (one, other))
        assert mine.keys() == theirs.keys()
        assert [key for key in mine if not mine[key].equal(theirs[key])] == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_five_steps_a_kill_and_five_more_are_ten(store: Path, tmp_path: Path, stage: int) -> None:
    runs = []
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        runs.append((write_config(tmp_path / name, store), tmp_path / name / "run"))
    overrides = [*OVERRIDES, f"deepspeed.zero_stage={stage}"]
    finish(runs[0][0], overrides)
    kill_all_after_five(*runs[1], overrides)
    assert "going on from" in finish(runs[1][0], overrides, "--resume")
    check_equal(runs[0][1], runs[1][1])


@pytest.mark.slow
def test_other_ranks_at_another_stage_go_on_with_the_same_samples(store: Path, tmp_path: Path) -> None:
    """2 ranks at ZeRO 2, killed; 1 rank at ZeRO 3 goes on to step 8; 2 ranks at ZeRO 1 to step 10; 3 ranks cannot."""
    for name in ("whole", "moved"):
        (tmp_path / name).mkdir()
    whole, moved = write_config(tmp_path / "whole", store), write_config(tmp_path / "moved", store)
    finish(whole, OVERRIDES)
    kill_all_after_five(moved, tmp_path / "moved" / "run", OVERRIDES)
    said = finish(moved, [*OVERRIDES, "run.steps=8", "deepspeed.zero_stage=3"], "--resume", ranks=1)
    assert "written by 2 ranks at ZeRO 2, with 1 at ZeRO 3" in said
    refused = subprocess.run(
        command(moved, "--resume", overrides=OVERRIDES, ranks=3), capture_output=True, text=True, timeout=240, check=False
    )
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "takes 2 samples, which 3 ranks" in refused.stderr
    finish(moved, [*OVERRIDES, "deepspeed.zero_stage=1"], "--resume")
    for one, other in zip(history(tmp_path / "whole" / "run"), history(tmp_path / "moved" / "run"), strict=True):
        assert other.metrics["optim/lr"] == one.metrics["optim/lr"]
        assert other.metrics["loss/total"] == pytest.approx(one.metrics["loss/total"], rel=TOLERANCE if one.step > 5 else 0)
