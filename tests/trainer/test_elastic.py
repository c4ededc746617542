"""A checkpoint is gone on from by other numbers of ranks and at other ZeRO stages: the state is the same to the bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from foldline.cluster.launch import mpirun_command
from foldline.data_store.config import DataConfig
from foldline.errors import FoldlineError
from foldline.trainer.checkpoint import Found, Manifest
from foldline.trainer.config import RunConfig, RunSection, passes_per_step, to_json
from foldline.trainer.resume import share_out


def job(ranks: int, what: str, folder: Path) -> None:
    command = mpirun_command(ranks, [sys.executable, str(Path(__file__).with_name("elastic_job.py")), what, str(folder)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in range(ranks):
        assert f"rank {rank} of {ranks}: {what} done" in done.stdout


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of two ranks at every stage, and the state that each came to afterwards."""
    folder = tmp_path_factory.mktemp("written")
    job(2, "save", folder)
    return folder


def test_every_stage_goes_on_at_others_with_another_number_of_ranks(written: Path) -> None:
    job(3, "some", written)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_stage_goes_on_from_every_stage_with_more_and_fewer_ranks(written: Path, ranks: int) -> None:
    job(ranks, "load", written)


def saved(folder: Path, config: RunConfig, batch: int) -> Found:
    (folder / "config.json").write_text(to_json(config))
    return Found(folder, Manifest(10, 10 * batch, 10, 0, 2, 2, "store", "", {}))


def settings(**run: int) -> RunConfig:
    return RunConfig(DataConfig(store="s"), RunSection("r", 20, **run))


@pytest.mark.parametrize(("world", "passes"), [(1, 6), (2, 3), (3, 2), (6, 1)])
def test_a_step_keeps_its_samples_when_the_ranks_change(tmp_path: Path, world: int, passes: int) -> None:
    config = settings(micro_batch=2, accumulate=3)
    assert passes_per_step(share_out(config, saved(tmp_path, config, 12), world), world) == passes


def test_ranks_that_cannot_share_a_step_are_an_error_that_names_those_that_can(tmp_path: Path) -> None:
    config = settings(micro_batch=2)
    with pytest.raises(FoldlineError, match=r"which 4 ranks with run.micro_batch = 2 cannot share; start with 1, 2, 3, 6 r"):
        share_out(config, saved(tmp_path, config, 12), 4)


def test_micro_batch_and_passes_may_change_where_a_step_keeps_its_samples(tmp_path: Path) -> None:
    found = saved(tmp_path, settings(micro_batch=2, accumulate=3), 12)
    for after, passes in (
        (settings(micro_batch=3, accumulate=3), 2),  # as it was stated: shared out anew
        (settings(micro_batch=1, accumulate=6), 6),
        (settings(micro_batch=6), 1),
        (settings(micro_batch=3, batch=12), 2),
    ):
        assert passes_per_step(share_out(after, found, 2), 2) == passes
    for after in (settings(micro_batch=1), settings(micro_batch=2, accumulate=2), settings(micro_batch=2, batch=24)):
        with pytest.raises(FoldlineError, match=r"samples per step, but a step of this run takes 12; set run.batch = 12"):
            share_out(after, found, 2)
    with pytest.raises(FoldlineError, match=r"cannot share; set run.micro_batch to a divisor of 12"):
        share_out(settings(micro_batch=24), found, 2)
