"""A random rank is killed at random moments, the launcher starts again: the end is that of an undisturbed run, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from .runs import FAULTS, STEPS, Job, check_equal, history, write_config

SPARE = 3  # restarts for starts that Open MPI itself fails on a busy machine
AFTER_A_START = 6.0  # seconds from the start of the ranks within which some kills come: imports, meeting, restoring, the first steps
WITHIN_A_STEP = 0.5  # seconds after a step was journalled within which others come
# What is going on at the first kills; of further ones chance decides. "beginning": before there is a checkpoint; "saving": one is written.
MOMENTS = ("beginning", "saving", "training", "starting")


def saving(run: Path, since: float) -> bool:
    """Whether a checkpoint is being written that was begun after ``since``: a killed start leaves its own behind until the next one."""
    with suppress(FileNotFoundError):
        return any(path.stat().st_mtime > since for path in run.glob("checkpoints/.partial_*"))
    return False


def kill_one(job: Job, chance: random.Random, moment: str, step: int, before: set[int]) -> set[int]:
    """Kill a rank of the start that follows the one of ``before``, after step ``step`` at the earliest; returns that start's processes."""
    job.wait_until(lambda: len(set(job.ranks().values()) - before) == 2)
    ranks = job.ranks()
    born = psutil.Process(min(ranks.values())).create_time()
    if moment == "saving":
        job.wait_until(lambda: saving(job.run, born) and job.step >= step)
    elif moment == "training":
        job.wait_until(lambda: job.step >= step and history(job.run)[-1].time > born)
        time.sleep(chance.uniform(0.0, WITHIN_A_STEP))
    elif moment == "starting":
        time.sleep(chance.uniform(0.0, AFTER_A_START))
    with suppress(ProcessLookupError):
        os.kill(chance.choice(sorted(ranks.values())), signal.SIGKILL)
    return set(ranks.values())


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_ranks_killed_at_random_moments_change_nothing(store: Path, undisturbed: Path, tmp_path: Path, kills: int) -> None:
    chance, killed = random.Random(kills), set[int]()
    job = Job(write_config(tmp_path, store, FAULTS), "--max-restarts", str(kills + SPARE))
    for number in range(kills):
        moment = MOMENTS[number] if number < len(MOMENTS) else chance.choice(MOMENTS[1:])
        killed = kill_one(job, chance, moment, number * (STEPS - 3) // kills, killed)
    code, _, errors = job.end()
    assert code == 0, errors
    assert "from the beginning, for there is no checkpoint yet" in errors
    assert f"restart {kills} of {kills + SPARE} from" in errors
    assert [record.step for record in history(job.run)] == list(range(1, STEPS + 1))
    check_equal(undisturbed, job.run, STEPS)
