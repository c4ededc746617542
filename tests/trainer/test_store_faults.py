"""The store under a running training of two ranks: away and back, away for good, damaged."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from foldline.cli import main
from foldline.errors import UNAVAILABLE

from .runs import FAULTS, Job, write_config

ENDLESS = ("run.steps=1000000", "run.checkpoint_every=1000000", "data.store_patience=60")


def state(run: Path) -> str:
    return str(json.loads((run / "state.json").read_text())["state"])


def started(folder: Path, store: Path, *overrides: str) -> tuple[Job, Path]:
    """A job that has made steps, and its own store."""
    mine = shutil.copytree(store, folder / "store")
    job = Job(write_config(folder, mine, FAULTS), overrides=overrides)
    job.wait_until(lambda: job.step >= 2)
    return job, mine


def test_an_outage_is_waited_for_and_a_flipped_byte_ends_all_ranks(store: Path, tmp_path: Path) -> None:
    job, mine = started(tmp_path, store, *ENDLESS)
    gone = mine.rename(tmp_path / "gone")
    time.sleep(2.0)  # a step takes a tenth of it
    during = job.step
    time.sleep(2.0)
    assert job.step <= during + 1  # nothing is trained on meanwhile
    gone.rename(mine)
    job.wait_until(lambda: job.step >= during + 3)
    (part,) = (mine / "parts").iterdir()
    data = part.read_bytes()
    place = data.index(b"positions/c/0") + 1000
    part.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    code, _, errors = job.end()
    assert code == 2, errors
    assert f"waiting for the store: {mine} cannot be read" in errors
    assert f"{mine} is there again after" in errors
    assert f"in parts/{part.name} of {mine} cannot be read" in errors
    assert f"nothing of it was used; run: foldline store verify {mine}, and restore what it names from a copy" in errors
    assert "Traceback" not in errors
    assert state(job.run) == "failed"
    assert main(["store", "verify", str(mine)]) == 1
    part.write_bytes(data)
    assert main(["store", "verify", str(mine)]) == 0


def test_a_store_that_stays_away_ends_the_run_for_the_scheduler_to_start_again(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, mine = started(tmp_path, store, *ENDLESS, "data.store_patience=2")
    mine.rename(tmp_path / "gone")
    code, _, errors = job.end()
    assert code == UNAVAILABLE, errors
    assert f"{mine} could not be read for data.store_patience = 2 s" in errors
    assert "once it is there again, or with a copy of it as data.store, go on with --resume" in errors
    assert "Traceback" not in errors
    assert state(job.run) == "lost"
    for each in job.family:
        assert not os.path.exists(f"/proc/{each.pid}/status") or not each.is_running()
    again = ["train", "--config", str(tmp_path / "config.toml"), "--set=data.store_patience=0.5"]
    assert main([*again, "--resume"]) == UNAVAILABLE  # a start that comes too early comes again
    assert "data.store_patience = 0.5 s" in capsys.readouterr().err
    assert main(again) == 2  # a first start without a store is a mistake
