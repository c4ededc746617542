"""SIGKILL of every rank between two checkpoints: 5 steps and 5 more are the 10 of an undisturbed run, bit for bit, at every ZeRO stage;
with other ranks, at another stage, or with another micro-batch they are the same samples.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from .runs import check_equal, command, finish, history, wait_until
from .test_run import write_config

STEPS = 10
OVERRIDES = [f"run.steps={STEPS}", "run.checkpoint_every=5", "tracking.mlflow=false", "validate.every=0", "run.collective_timeout=240"]
# Sums over other ranks and in other slices: of the losses of the steps that follow.
TOLERANCE = 2e-3


def kill_all_after_five(config: Path, run: Path, overrides: list[str], ranks: int = 2) -> None:
    """Start, and kill launcher and ranks at once when the checkpoint of step 5 is there and further steps are journalled or under way."""
    words = command(config, overrides=overrides, ranks=ranks)
    job = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    wait_until((run / "checkpoints" / "step_00000005" / "manifest.json").exists, job)
    everyone = psutil.Process(job.pid).children(recursive=True)
    for process in everyone:
        if "foldline.cli" in process.cmdline():
            os.kill(process.pid, signal.SIGKILL)
    job.kill()
    job.wait(60)
    psutil.wait_procs(everyone, timeout=60)
    assert not (run / "checkpoints" / f"step_{STEPS:08d}").exists(), "the run was over before it was killed"


def check_close(one: Path, other: Path) -> None:
    """The same learning rates, and losses that agree, to the bit before the kill."""
    for mine, theirs in zip(history(one), history(other), strict=True):
        assert theirs.metrics["optim/lr"] == mine.metrics["optim/lr"]
        assert theirs.metrics["loss/total"] == pytest.approx(mine.metrics["loss/total"], rel=TOLERANCE if mine.step > 5 else 0)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_five_steps_a_kill_and_five_more_are_ten(store: Path, tmp_path: Path, stage: int) -> None:
    whole, killed = (write_config(tmp_path / name, store) for name in ("whole", "killed"))
    overrides = [*OVERRIDES, f"deepspeed.zero_stage={stage}"]
    finish(whole, overrides=overrides)
    kill_all_after_five(killed, killed.parent / "run", overrides)
    assert "going on from" in finish(killed, "--resume", overrides=overrides)[0]
    check_equal(whole.parent / "run", killed.parent / "run", STEPS)


@pytest.mark.slow
def test_other_ranks_at_another_stage_go_on_with_the_same_samples(store: Path, tmp_path: Path) -> None:
    """2 ranks at ZeRO 2, killed; 1 rank at ZeRO 3 goes on to step 8; 2 ranks at ZeRO 1 to step 10; 3 ranks cannot."""
    whole, moved = (write_config(tmp_path / name, store) for name in ("whole", "moved"))
    finish(whole, overrides=OVERRIDES)
    kill_all_after_five(moved, moved.parent / "run", OVERRIDES)
    said, _ = finish(moved, "--resume", overrides=[*OVERRIDES, "run.steps=8", "deepspeed.zero_stage=3"], ranks=1)
    assert "written by 2 ranks at ZeRO 2, with 1 at ZeRO 3" in said
    _, errors = finish(moved, "--resume", overrides=OVERRIDES, ranks=3, code=2)
    assert "takes 2 samples, which 3 ranks" in errors
    finish(moved, "--resume", overrides=[*OVERRIDES, "deepspeed.zero_stage=1"])
    check_close(whole.parent / "run", moved.parent / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 2)])
def test_twice_and_half_the_ranks_from_zero_2_to_zero_3_take_the_same_samples(store: Path, tmp_path: Path, before: int, after: int) -> None:
    whole, moved = (write_config(tmp_path / name, store) for name in ("whole", "moved"))
    overrides = [*OVERRIDES, "run.batch=4", "deepspeed.zero_stage=2"]
    finish(whole, overrides=overrides, ranks=before)
    kill_all_after_five(moved, moved.parent / "run", overrides, ranks=before)
    said, _ = finish(moved, "--resume", overrides=[*overrides, "deepspeed.zero_stage=3"], ranks=after)
    assert f"written by {before} ranks at ZeRO 2, with {after} at ZeRO 3" in said
    check_close(whole.parent / "run", moved.parent / "run")


@pytest.mark.slow
def test_another_micro_batch_takes_the_same_samples(store: Path, tmp_path: Path) -> None:
    """Without dropout, whose masks are drawn for a micro-batch at once."""
    whole, moved = (write_config(tmp_path / name, store) for name in ("whole", "moved"))
    drops = [f"model.{stack}.dropout_{kind}=0.0" for stack in ("evoformer", "extra_msa") for kind in ("msa", "pair")]
    overrides = [*OVERRIDES, *drops, "model.structure.dropout=0.0", "run.micro_batch=1", "run.accumulate=2"]
    finish(whole, overrides=overrides)
    kill_all_after_five(moved, moved.parent / "run", overrides)
    finish(moved, "--resume", overrides=[*overrides, "run.micro_batch=2", "run.accumulate=1"])
    check_close(whole.parent / "run", moved.parent / "run")
    _, errors = finish(moved, "--resume", overrides=[*overrides, "run.accumulate=3", "run.steps=12"], code=2)
    assert "make 6 samples per step, but a step of this run takes 4; set run.batch = 4" in errors
