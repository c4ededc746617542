"""A real MLflow server under a run: it hangs, is killed and started again, its disk is full; in the end it has the journal to the point."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from foldline.data_store.config import DataConfig
from foldline.trainer.chaos.server import Server
from foldline.trainer.config import RunConfig, RunSection, TrackingConfig, to_json
from foldline.trainer.journal import Journal, read_after
from foldline.trainer.run_state import FINISHED, RUNNING, tell
from foldline.trainer.rundir import RunDir
from foldline.trainer.tracking import tracker as tracker_module
from foldline.trainer.tracking.feed import LIMITS
from foldline.trainer.tracking.sync import sync_run
from foldline.trainer.tracking.tracker import Tracker

from .runs import wait_until

METRICS = 5
PAUSE = 4.0  # seconds that a fault lasts


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """24 MB of memory as a file system."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip() or 'root is needed'}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def points(uri: str, run_id: str, names: list[str]) -> Counter[tuple[str, int, int, float]]:
    """Every point that the server has: name, step, time in ms, value."""
    client = MlflowClient(uri)
    return Counter((name, m.step, m.timestamp, m.value) for name in names for m in client.get_metric_history(run_id, name))


@pytest.mark.slow
def test_the_server_has_the_journal_point_by_point(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (LIMITS | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}).items():
        monkeypatch.setenv(name, value)
    server = Server(small_disk / "server")
    server.launch()
    server.wait()
    run = RunDir(tmp_path / "run")
    section = RunSection(dir=str(run.root), steps=1)
    config = RunConfig(DataConfig(store="s"), section, tracking=TrackingConfig(uri=server.uri, flush_seconds=0.3))
    journal, step = Journal(run.journal), 0
    run.config.write_text(to_json(config))
    run.environment.write_text(json.dumps({}))
    tell(run.state, RUNNING)
    tracker = Tracker(config, run)

    def train(seconds: float) -> None:
        nonlocal step
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            step += 1
            before = time.monotonic()
            journal.append("train", step, {f"loss/term{i}": step + i / 10 for i in range(METRICS)})
            assert time.monotonic() - before < 1.0, "a step waited for the server"
            time.sleep(0.05)

    try:
        wait_until(lambda: tracker.run_id != "")
        train(1.0)
        assert server._process is not None
        os.killpg(server._process.pid, signal.SIGSTOP)
        train(PAUSE)
        os.killpg(server._process.pid, signal.SIGCONT)
        train(1.0)
        server.kill()
        train(PAUSE)
        assert tracker.trouble
        server.launch()
        server.wait()
        train(1.0)
        wait_until(lambda: tracker.trouble == "")
        with (small_disk / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free)
        train(2 * PAUSE)
        assert tracker.trouble, "the server's disk was not full"
        (small_disk / "filler").unlink()
        train(1.0)
        journal.close()
        tell(run.state, FINISHED)
        monkeypatch.setattr(tracker_module, "CLOSE_SECONDS", 120.0)
        tracker.close()
        sync_run(run.root, server.uri)  # as the printed line says where the end of the run was not taken in time
        names = [f"loss/term{i}" for i in range(METRICS)]
        records = read_after(run.journal, 0).records
        assert len(records) == step
        wanted = Counter((name, r.step, round(r.time * 1000), r.metrics[name]) for r in records for name in names)
        assert points(server.uri, tracker.run_id, names) == wanted
        (found,) = MlflowClient(server.uri).search_runs(["1"])
        assert (found.info.run_id, found.info.status) == (tracker.run_id, "FINISHED")
    finally:
        server.kill()
