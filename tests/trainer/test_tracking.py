"""MLflow gets all of a run directory, once, whatever happens to it meanwhile; a dead server costs training nothing."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from foldline.data_store.config import DataConfig
from foldline.settings import flatten, to_dict
from foldline.tests.trainer.tracked_runs import DATASET, begin, config, losses, record, tell
from foldline.trainer.chaos.checks import points
from foldline.trainer.config import to_json
from foldline.trainer.journal import Journal
from foldline.trainer.tracking.feed import Feed, reason_of
from foldline.trainer.tracking.state import TrackingState
from foldline.trainer.tracking.sync import sync_run
from foldline.trainer.tracking.tracker import Tracker


def test_a_dead_server_then_a_database(tmp_path: Path) -> None:
    """Nothing is lost and nothing sent twice over three starts of one run, the first against a port where nobody answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
    run = begin(config(tmp_path, nobody))
    record(run, 1, 2)
    start = time.monotonic()
    tracker = Tracker(config(tmp_path, nobody), run)
    assert time.monotonic() - start < 15  # mostly the import
    tracker.close()
    assert tracker.trouble
    assert time.monotonic() - start < 60

    run.config.write_text(to_json(config(tmp_path)))
    run.plots.mkdir()
    (run.plots / "curves.png").write_bytes(b"png")
    tracker = Tracker(config(tmp_path), run)
    record(run, 3)
    tell(run, "stopped")
    tracker.close()
    assert tracker.trouble == ""
    assert losses(run.local_uri, tracker.run_id) == [(1, 9.0), (2, 8.0), (3, 7.0)]
    client = MlflowClient(run.local_uri)
    assert client.get_run(tracker.run_id).info.status == "KILLED"

    run.config.write_text(to_json(config(tmp_path, steps=5)))  # resumed with more steps
    tell(run, "running")
    record(run, 4)
    again = Tracker(config(tmp_path, steps=5), run)
    tell(run, "finished")
    again.close()
    assert again.run_id == tracker.run_id
    assert losses(run.local_uri, again.run_id) == [(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0)]
    found = client.get_run(again.run_id)
    assert (found.info.status, found.info.end_time) == ("FINISHED", 1_800_000_000_500)
    assert (found.data.params["run.steps"], found.data.tags["resumed.run.steps"]) == ("4", "5")
    assert found.info.run_name == tmp_path.name
    assert {f.path for f in client.list_artifacts(again.run_id)} == {"config.json", "environment.json", "plots"}
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
    monkeypatch.setattr("foldline.trainer.tracking.tracker.CLOSE_SECONDS", 1.0)
    settings = config(tmp_path, f"http://127.0.0.1:{server.server_port}")
    run = begin(settings)
    record(run, 1)
    tracker = Tracker(settings, run)
    start = time.monotonic()
    tracker.close()
    assert time.monotonic() - start < 5
    assert "no answer" in tracker.trouble
    release.set()
    server.shutdown()
    assert all(not sent.journals for sent in TrackingState.read(run.tracking).servers.values())


def test_a_run_says_where_it_comes_from(tmp_path: Path) -> None:
    chains = tuple(f"{number:04d}_A" for number in range(2000))
    settings = replace(config(tmp_path), data=DataConfig(store="s", train=chains))
    run = begin(settings)
    _, run_id = sync_run(tmp_path, run.local_uri)
    found = MlflowClient(run.local_uri).get_run(run_id)
    assert found.data.params.keys() == flatten(to_dict(settings)).keys()
    long = found.data.params["data.train"]
    assert len(long) == 6000
    assert long.endswith("characters; config.json and environment.json have all)")
    wanted = {
        "mlflow.source.git.commit": "c0ffee",
        "foldline.git.dirty": "true",
        "foldline.dataset": DATASET["hash"],
        "foldline.hosts": "gpu01, gpu02",
        "foldline.world": "16",
        "foldline.zero_stage": "2",
        "foldline.slurm_job_id": "77",
        "foldline.slurm_array_task_id": "3",
        "foldline.container": "apptainer /img.sif",
        "foldline.version": "0.1.0",
        "foldline.stage": "pretrain",
    }
    assert wanted.items() <= found.data.tags.items()
    (given,) = found.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("store", DATASET["hash"][:36])
    assert json.loads(given.dataset.source) == {"uri": "/data/store"}
    assert json.loads(given.dataset.profile)["chains"] == 7
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]


def test_a_run_whose_number_was_lost_is_found_again(tmp_path: Path) -> None:
    """The server made the run, but the answer and all that was remembered of it are gone: no second run, no value twice."""
    run = begin(config(tmp_path))
    record(run, 1, 2)
    _, first = sync_run(tmp_path, run.local_uri)
    state = TrackingState.read(run.tracking)
    state.servers.clear()
    state.save()
    _, second = sync_run(tmp_path, run.local_uri)
    assert second == first
    assert losses(run.local_uri, first) == [(1, 9.0), (2, 8.0)]
    client = MlflowClient(run.local_uri)
    assert len(client.search_runs(["1"])) == 1
    assert len(client.get_run(first).inputs.dataset_inputs) == 1


def test_a_server_that_was_emptied_gets_everything_again(tmp_path: Path) -> None:
    run = begin(config(tmp_path))
    record(run, 1, 2)
    _, first = sync_run(tmp_path, run.local_uri)
    (tmp_path / "mlflow.db").rename(tmp_path / "old.db")
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    state = TrackingState.read(run.tracking)
    state.servers = {uri: state.servers[run.local_uri]}
    state.save()
    amount, second = sync_run(tmp_path, uri)
    assert second != first
    assert amount.metrics == 4
    assert losses(uri, second) == [(1, 9.0), (2, 8.0)]


def test_a_step_made_again_is_one_point_where_it_came_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after step 4, gone on from step 2: losses stand once, times of steps 3 and 4 twice; whoever sends, and when, and however often
    a call fails.
    """
    monkeypatch.setattr("foldline.trainer.tracking.feed.LINES_PER_READ", 2)
    run, uri = begin(config(tmp_path / "run")), f"sqlite:///{tmp_path / 'all.db'}"
    journal = Journal(run.journal)

    def write(*steps: int, seconds: float) -> None:
        for step in steps:
            journal.append("system", step, {"system/h/cpu_share": 0.5})
            journal.append("train", step, {"loss/total": 10.0 - step, "optim/lr": 1e-3, "time/step": seconds + step})

    write(1, 2, 3, seconds=1.0)
    feed = Feed(run, uri)
    feed.send()
    write(4, seconds=1.0)
    journal.append("resume", 2, {})
    write(3, seconds=2.0)
    plain, calls = MlflowClient.log_batch, []

    def unsteady(self: MlflowClient, *given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:  # the time of step 3, made again
            raise OSError("the network is gone")
        return plain(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", unsteady)
        with pytest.raises(OSError, match="network"):
            feed.send()
        feed.send()
    write(4, 5, seconds=2.0)
    run_id = sync_run(run.root, uri)[1]  # another process
    client = MlflowClient(uri)
    found = {
        name: sorted((m.step, m.value) for m in client.get_metric_history(run_id, name))
        for name in ("loss/total", "optim/lr", "time/step", "system/h/cpu_share")
    }
    assert found["loss/total"] == [(step, 10.0 - step) for step in range(1, 6)]
    assert found["optim/lr"] == [(step, 1e-3) for step in range(1, 6)]
    assert found["time/step"] == [(1, 2.0), (2, 3.0), (3, 4.0), (3, 5.0), (4, 5.0), (4, 6.0), (5, 7.0)]
    assert {step for step, _ in found["system/h/cpu_share"]} == {1, 2, 3, 4, 5}
    held = {(name, m.step, m.timestamp, m.value) for name in found for m in client.get_metric_history(run_id, name)}
    assert held == points(run)


def test_files_of_a_shared_database_lie_beside_it(tmp_path: Path) -> None:
    run, uri = begin(config(tmp_path / "run")), f"sqlite:///{tmp_path / 'all.db'}"
    record(run, 1)
    _, run_id = sync_run(run.root, uri)
    (experiment,) = (e for e in MlflowClient(uri).search_experiments() if e.name == "foldline")
    assert experiment.artifact_location == (tmp_path / "mlruns").as_uri()
    assert (tmp_path / "mlruns" / run_id / "artifacts" / "config.json").exists()


def test_an_error_that_is_told_is_one_short_line() -> None:
    assert reason_of(OSError("no\nsecond line")) == "no"
    assert reason_of(TimeoutError()) == "TimeoutError"
    assert len(reason_of(OSError("x" * 5000))) == 200
