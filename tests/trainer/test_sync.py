"""``foldline track sync`` against a real server process that is killed in the middle, and ``foldline runs`` on what it left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from foldline.cli import main
from foldline.data_store.config import DataConfig
from foldline.trainer.chaos.server import Server
from foldline.trainer.config import RunConfig, RunSection, TrackingConfig, to_json
from foldline.trainer.journal import Journal
from foldline.trainer.rundir import RunDir
from foldline.trainer.tracking.listing import folder_runs
from foldline.trainer.tracking.state import TrackingState
from foldline.trainer.tracking.sync import address_of

STEPS = 300
METRICS = 30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.launch()
    server.wait()
    yield server
    server.kill()


def offline_run(root: Path, steps: int = STEPS, parent: str = "", state: str = "finished") -> RunDir:
    """A run directory as an offline training leaves it, with 30 values per step."""
    run = RunDir(root)
    journal = Journal(run.journal)
    for step in range(1, steps + 1):
        values = {f"loss/term{i}": step + i / 100 for i in range(METRICS - 1)}
        journal.append("train", step, values | {"loss/total": 1000.0 - step, "speed/samples_per_second": 4.0})
        if step % 100 == 0:
            journal.append("validate", step, {"validate/validation/lddt_ca": step / 1000, "validate/validation/rmsd_ca": 10 - step / 100})
    journal.close()
    settings = RunConfig(
        DataConfig(store="s"), RunSection(dir=str(root), steps=steps), tracking=TrackingConfig(offline=True, parent=parent)
    )
    run.config.write_text(to_json(settings))
    run.environment.write_text(json.dumps({"dataset": {"name": "pdb", "hash": "ab" * 32, "source": "/s", "schema": {}, "profile": {}}}))
    run.state.write_text(json.dumps({"state": state, "time": time.time(), "host": "gpu01", "pid": 1}))
    run.plots.mkdir()
    for number in range(3):
        (run.plots / f"map{number}.png").write_bytes(bytes([number]) * 1000)
    return run


def history(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in MlflowClient(uri).get_metric_history(run_id, name)]


def sync(*words: str) -> list[str]:
    return [sys.executable, "-m", "foldline.cli", "track", "sync", *words]


def check_whole(uri: str, run: RunDir) -> None:
    """The server has every value of the journal once, the files, and the run's end; and exactly one run of this directory."""
    sent = TrackingState.read(run.tracking).servers[uri]
    wanted = [(step, 1000.0 - step) for step in range(1, STEPS + 1)]
    assert history(uri, sent.run_id, "loss/total") == wanted
    for i in (0, METRICS - 2):
        assert history(uri, sent.run_id, f"loss/term{i}") == [(step, step + i / 100) for step in range(1, STEPS + 1)]
    client = MlflowClient(uri)
    (found,) = client.search_runs(["1"], f"attributes.run_name = '{run.root.name}'")
    assert (found.info.run_id, found.info.status) == (sent.run_id, "FINISHED")
    assert {f.path for f in client.list_artifacts(sent.run_id, "plots")} == {f"plots/map{n}.png" for n in range(3)}


def wait_for_progress(run: RunDir, uri: str, process: subprocess.Popen[str]) -> None:
    """Until some of the journal is sent, but not all of it."""
    end = time.monotonic() + 120
    while not (sent := TrackingState.read(run.tracking).servers.get(uri)) or not sent.journals:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_server_killed_in_mid_sync_loses_and_doubles_nothing(server: Server, tmp_path: Path) -> None:
    run = offline_run(tmp_path / "cut_server")
    environment = os.environ | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
    process = subprocess.Popen(
        sync(str(run.root), "--uri", server.uri), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_progress(run, server.uri, process)
    server.kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert "did not take everything" in errors
    assert "Traceback" not in errors
    assert TrackingState.read(run.tracking).servers[server.uri].journals["metrics.jsonl"] < run.journal.stat().st_size
    server.launch()
    server.wait()
    assert main(["track", "sync", str(run.root), "--uri", server.uri]) == 0
    check_whole(server.uri, run)


def test_a_sync_killed_in_the_middle_goes_on_where_it_was(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = offline_run(tmp_path / "cut_sync")
    process = subprocess.Popen(sync(str(run.root), "--uri", server.uri), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_progress(run, server.uri, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    state = TrackingState.read(run.tracking)
    # The answer to the last call was lost with the process: that part is sent again.
    state.servers[server.uri].journals["metrics.jsonl"] = 0
    state.save()
    two = [threading.Thread(target=main, args=(["track", "sync", str(run.root), "--uri", server.uri],)) for _ in range(2)]
    for thread in two:  # two at once wait for each other
        thread.start()
    for thread in two:
        thread.join()
    check_whole(server.uri, run)
    capsys.readouterr()
    assert main(["track", "sync", str(run.root), "--uri", server.uri]) == 0
    assert "nothing new" in capsys.readouterr().out
    child = offline_run(tmp_path / "child", steps=3, parent=str(run.root))
    assert main(["track", "sync", str(child.root), str(run.root), "--uri", server.uri]) == 0
    assert str(capsys.readouterr().out).startswith(f"{run.root}: nothing new")
    child_id = TrackingState.read(child.tracking).servers[server.uri].run_id
    assert MlflowClient(server.uri).get_parent_run(child_id).info.run_name == "cut_sync"
    assert main(["runs", "--uri", server.uri, "--json", "--limit", "2"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert len(listed) == 2
    newest = {line["name"]: line for line in listed}["child"]
    assert (newest["step"], newest["steps"], newest["state"], newest["samples_per_second"]) == (3, 3, "finished", 4.0)


def test_runs_lists_directories_without_mlflow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, steps, state in (("old", 200, "finished"), ("new", 300, "running")):
        offline_run(tmp_path / "runs" / name, steps, state=state)
        time.sleep(0.01)
    with (tmp_path / "runs" / "new" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "resume", "step": 150, "time": 1.0, "metrics": {}}) + "\n" + '{"kind": "tra')
    side = Journal(tmp_path / "runs" / "old" / "metrics.validation.jsonl")
    side.append("validate", 150, {"validate/validation/rmsd_ca": 7.5, "validate/set": 1.0})
    side.close()
    new, old = folder_runs([tmp_path], 5)
    assert (old.name, old.state, old.step, old.steps, old.samples_per_second) == ("old", "finished", 200, 200, 4.0)
    assert (new.name, new.state) == ("new", "running")
    assert old.best == {"validate/validation/lddt_ca": (0.2, 200), "validate/validation/rmsd_ca": (7.5, 150)}
    assert new.best["validate/validation/lddt_ca"] == (0.1, 100)  # what the resume voided does not count
    assert old.dataset == "pdb " + "ab" * 6
    assert main(["runs", str(tmp_path), "--limit", "1"]) == 0
    printed = capsys.readouterr().out
    assert "new" in printed
    assert "0.100 at 100" in printed
    assert "old" not in printed
    code = f"import sys; from foldline.cli import main; main(['runs', {str(tmp_path)!r}]); print({{'torch', 'mlflow'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.endswith("set()\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["track", "sync", "/nowhere"], "/nowhere is no run directory: config.json is not readable"),
        (["runs", "/nowhere"], "/nowhere is no folder"),
        (["runs", "--limit", "0"], "--limit 0 is below 1"),
        (["runs", "x", "--uri", "y"], "give folders or --uri, not both"),
    ],
)
def test_bad_input_is_one_message(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_sync_wants_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = offline_run(tmp_path / "run", steps=1)
    assert main(["track", "sync", str(run.root)]) == 2
    assert "no server is named; give --uri" in capsys.readouterr().err
    (run.root / "mlflow.db").touch()
    assert address_of(run.root, "") == run.local_uri
    assert address_of(run.root, "http://host:5000") == "http://host:5000"
