"""The law of the protocol: however a step's samples are spread over ranks, passes and micro-batches, the training is the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from foldline.cluster.launch import mpirun_command

JOB = str(Path(__file__).with_name("protocol_job.py"))
# ZeRO stage, optim.clip, deepspeed.checkpointing, blocks per checkpoint, offload
FEW = ["0 sample torch 1 no", "1 sample torch 0 no", "2 sample torch 1 no", "3 batch torch 1 no"]
ALL = [f"{stage} {clip} {by} no" for stage in range(4) for clip in ("sample", "batch") for by in ("torch 0", "torch 1", "deepspeed 1")]
OFFLOADED = [f"{stage} {clip} torch 1 offload" for stage in (1, 2, 3) for clip in ("sample", "batch")]


@pytest.fixture(scope="module")
def shared(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that leads to the store, with the training by hand on one rank; accumulation and micro-batches were held against that."""
    folder = tmp_path_factory.mktemp("protocol")
    (folder / "store").symlink_to(store)
    done = subprocess.run(
        [sys.executable, JOB, str(folder / "store"), str(folder)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def on_two_ranks(folder: Path, cases: Sequence[str]) -> None:
    command = mpirun_command(2, [sys.executable, JOB, str(folder / "store"), str(folder), *cases])
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for case in cases:
        assert done.stdout.count(f"{case}: loss") == 2


def test_two_ranks_train_as_one_by_hand_at_every_zero_stage(shared: Path) -> None:
    on_two_ranks(shared, FEW)


@pytest.mark.slow
def test_no_stage_checkpointing_clipping_or_offload_changes_the_training(shared: Path) -> None:
    on_two_ranks(shared, [case for case in ALL + OFFLOADED if case not in FEW])
