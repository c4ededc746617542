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

AFTER_A_START = 6.0  # seconds from the start of the ranks within which some kills come: imports, meeting, restoring, the first steps
SPARE = 3  # restarts for starts that Open MPI itself fails on a busy machine
WITHIN_A_STEP = 0.5  # seconds after a step was journalled within which the others come: steps, checkpoints


def kill_one(job: Job, chance: random.Random, step: int, before: set[int]) -> set[int]:
    """Kill a rank of the start that follows the one of ``before``, at a moment of its own; returns that start's processes.

    Every fourth moment is counted from the start of the ranks, the others from a step, ``step`` at the earliest.
    """
    job.wait_until(lambda: len(set(job.ranks().values()) - before) == 2)
    ranks = job.ranks()
    if chance.random() < 0.25:
        time.sleep(chance.uniform(0.0, AFTER_A_START))
    else:
        job.wait_until(lambda: job.step >= step and history(job.run)[-1].time > psutil.Process(min(ranks.values())).create_time())
        time.sleep(chance.uniform(0.0, WITHIN_A_STEP))
    with suppress(ProcessLookupError):
        os.kill(chance.choice(sorted(ranks.values())), signal.SIGKILL)
    return set(ranks.values())


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_ranks_killed_at_random_moments_change_nothing(store: Path, undisturbed: Path, tmp_path: Path, kills: int) -> None:
    chance, killed = random.Random(kills), set[int]()
    job = Job(write_config(tmp_path, store, FAULTS), "--max-restarts", str(kills + SPARE))
    for number in range(kills):
        killed = kill_one(job, chance, 1 + number * (STEPS - 3) // kills, killed)
    code, _, errors = job.end()
    assert code == 0, errors
    assert f"restart {kills} of {kills + SPARE} from" in errors
    assert [record.step for record in history(job.run)] == list(range(1, STEPS + 1))
    check_equal(undisturbed, job.run, STEPS)
