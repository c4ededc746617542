"""A full disk, for real: a file system of a few megabytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .runs import SECONDS, finish, history
from .test_run import command, write_config


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """12 MB of memory as a file system."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip() or 'root is needed'}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_checkpoint_without_room_is_told_tried_again_and_costs_no_older_one(small_disk: Path) -> None:
    program = [sys.executable, str(Path(__file__).with_name("disk_job.py")), str(small_disk)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all seen" in done.stdout


def test_a_run_on_a_full_disk_goes_on_then_ends_with_what_is_needed(small_disk: Path, store: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, store)
    overrides = [
        f'run.dir="{small_disk / "run"}"',
        "run.steps=1000",
        "run.checkpoint_every=4",
        "tracking.mlflow=false",
        'validate.mode="async"',
    ]
    job = subprocess.Popen(command(config, overrides=overrides, ranks=1), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = small_disk / "run" / "checkpoints" / "step_00000004" / "manifest.json"
    end = time.monotonic() + SECONDS
    while not first.exists():
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free)
    printed, errors = job.communicate(timeout=SECONDS)
    assert job.returncode == 2, printed + errors
    assert "was not written: " in printed
    assert "metrics.jsonl is not written ([Errno 28] No space left on device); its lines wait in memory" in printed
    assert "training goes on" in printed
    assert "2 in a row; the checkpoint of step" in errors
    assert "Traceback" not in errors
    assert "cannot show that it lives" not in errors  # a date needs no room
    assert list((small_disk / "run" / "checkpoints").glob("step_*/manifest.json"))
    filler.unlink()
    more = history(small_disk / "run")[-1].step + 2
    finish(config, "--resume", overrides=[*overrides, f"run.steps={more}"], ranks=1)
    assert [record.step for record in history(small_disk / "run")] == list(range(1, more + 1))
