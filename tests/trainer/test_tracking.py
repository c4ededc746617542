"""MLflow gets all of the journal, once, whatever happens to it meanwhile; a dead server costs training nothing."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from foldline.data_store.config import DataConfig
from foldline.trainer.config import RunConfig, RunSection, TrackingConfig, to_json
from foldline.trainer.journal import Journal
from foldline.trainer.rundir import RunDir
from foldline.trainer.tracking import Tracker


def config(root: Path, uri: str = "") -> RunConfig:
    return RunConfig(DataConfig(store="s"), RunSection(dir=str(root), steps=4), tracking=TrackingConfig(uri=uri, flush_seconds=0.2))


def record(run: RunDir, *steps: int) -> None:
    journal = Journal(run.journal)
    for step in steps:
        journal.append("train", step, {"loss/total": 10.0 - step, "optim/lr": 1e-3})
    journal.close()


def losses(root: Path, run_id: str) -> list[tuple[int, float]]:
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    return sorted((m.step, m.value) for m in client.get_metric_history(run_id, "loss/total"))


def test_a_dead_server_then_a_database(tmp_path: Path) -> None:
    """Nothing is lost and nothing sent twice over three starts of one run, the first against a port where nobody answers."""
    run = RunDir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
    record(run, 1, 2)
    start = time.monotonic()
    tracker = Tracker(config(tmp_path, nobody), run)
    assert time.monotonic() - start < 15  # mostly the import
    tracker.close("KILLED")
    assert tracker.trouble
    assert time.monotonic() - start < 60

    run.config.write_text(to_json(config(tmp_path)))
    run.plots.mkdir()
    (run.plots / "curves.png").write_bytes(b"png")
    tracker = Tracker(config(tmp_path), run)
    record(run, 3)
    tracker.close("KILLED")
    assert tracker.trouble == ""
    assert losses(tmp_path, tracker.run_id) == [(1, 9.0), (2, 8.0), (3, 7.0)]

    record(run, 4)
    again = Tracker(config(tmp_path), run)
    again.close("FINISHED")
    assert again.run_id == tracker.run_id
    assert losses(tmp_path, again.run_id) == [(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0)]
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    found = client.get_run(again.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["optim.beta2"] == "0.999"
    assert found.info.run_name == tmp_path.name
    assert {f.path for f in client.list_artifacts(again.run_id)} == {"config.json", "plots"}
    assert (tmp_path / "artifacts" / again.run_id / "artifacts" / "plots" / "curves.png").exists()


def test_a_server_that_accepts_and_never_answers_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def handle(self) -> None:
            release.wait(30)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("foldline.trainer.tracking.CLOSE_SECONDS", 1.0)
    run = RunDir(tmp_path)
    record(run, 1)
    tracker = Tracker(config(tmp_path, f"http://127.0.0.1:{server.server_port}"), run)
    start = time.monotonic()
    tracker.close("FINISHED")
    assert time.monotonic() - start < 5
    assert "no answer" in tracker.trouble
    release.set()
    server.shutdown()
    assert not run.tracking.exists() or json.loads(run.tracking.read_text())["offset"] == 0


def test_another_uri_is_another_run(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    record(run, 1)
    run.tracking.write_text(json.dumps({"uri": "http://elsewhere", "run_id": "theirs", "offset": 10_000}))
    tracker = Tracker(replace(config(tmp_path)), run, run_id="theirs")
    tracker.close("FINISHED")
    assert tracker.trouble == ""
    assert tracker.run_id != "theirs"
    assert losses(tmp_path, tracker.run_id) == [(1, 9.0)]
