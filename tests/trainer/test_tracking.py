"""MLflow gets all of a run directory, once, whatever happens to it meanwhile; a dead server costs training nothing."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from safetensors.numpy import save_file

from foldline.cli import main
from foldline.data_store.config import DataConfig
from foldline.errors import FoldlineError
from foldline.settings import flatten, to_dict
from foldline.trainer.chaos.checks import points
from foldline.trainer.config import RunConfig, RunSection, TrackingConfig, check, to_json
from foldline.trainer.journal import Journal
from foldline.trainer.provenance import container, git_state, run_of_weights
from foldline.trainer.rundir import RunDir
from foldline.trainer.system import SystemSampler
from foldline.trainer.tables import append_table, read_table
from foldline.trainer.tracking.feed import Feed, reason_of
from foldline.trainer.tracking.registry import judge
from foldline.trainer.tracking.state import TrackingState
from foldline.trainer.tracking.sync import in_order, sync_run
from foldline.trainer.tracking.tracker import Tracker, check_tracking

DATASET = {
    "name": "store",
    "hash": "ab" * 32,
    "source": "/data/store",
    "schema": {"aatype": ["int", "N_res"]},
    "profile": {"chains": 7, "residues": 490},
}
ABOUT = {
    "foldline": "0.1.0",
    "git": {"commit": "c0ffee", "dirty": True},
    "dataset": DATASET,
    "hosts": ["gpu01", "gpu02"],
    "world": 16,
    "zero_stage": 2,
    "job": {"slurm_job_id": "77", "slurm_array_task_id": "3"},
    "container": "apptainer /img.sif",
    "starts_from": "",
}


def config(root: Path, uri: str = "", steps: int = 4, **tracking: Any) -> RunConfig:
    section = RunSection(dir=str(root), steps=steps)
    return RunConfig(DataConfig(store="s"), section, tracking=TrackingConfig(uri=uri, flush_seconds=0.2, **tracking))


def begin(settings: RunConfig, state: str = "running", **about: Any) -> RunDir:
    """A run directory as the recorder leaves it at the start."""
    run = RunDir(Path(settings.run.dir))
    run.root.mkdir(parents=True, exist_ok=True)
    run.config.write_text(to_json(settings))
    run.environment.write_text(json.dumps(ABOUT | about))
    tell(run, state)
    return run


def tell(run: RunDir, state: str) -> None:
    run.state.write_text(json.dumps({"state": state, "time": 1_800_000_000.5}))


def record(run: RunDir, *steps: int) -> None:
    journal = Journal(run.journal)
    for step in steps:
        journal.append("train", step, {"loss/total": 10.0 - step, "optim/lr": 1e-3})
    journal.close()


def finish(run: RunDir, value: float | None, seed: int = 0) -> None:
    """What a finished run has besides: averaged weights and the last validation."""
    run.weights.parent.mkdir(exist_ok=True)
    save_file({"w": np.full(4, seed, np.float32)}, run.weights)
    measured(run, value)
    tell(run, "finished")


def measured(run: RunDir, value: float | None) -> None:
    found = {} if value is None else {"validate/validation/lddt_ca": value}
    run.summary.write_text(json.dumps({"after": {"step": 4, "set": "5e7"} | found}))


def losses(uri: str, run_id: str) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in MlflowClient(uri).get_metric_history(run_id, "loss/total"))


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


def test_lines_of_runs_nest_and_link(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'all.db'}"
    first = begin(config(tmp_path / "pretrain", parent="kinases"))
    record(first, 1)
    finish(first, 0.5)
    settings = config(tmp_path / "finetune", parent="kinases")
    second = begin(replace(settings, run=replace(settings.run, init_weights=str(first.weights))), starts_from=str(first.root))
    third = begin(config(tmp_path / "under", parent=str(first.root)))
    assert run_of_weights(str(first.weights)) == first.root
    assert in_order([third.root, second.root, first.root]) == [second.root, first.root, third.root]
    ids = {run.root.name: sync_run(run.root, uri)[1] for run in (first, second, third)}
    client = MlflowClient(uri)
    tags = {name: client.get_run(run_id).data.tags for name, run_id in ids.items()}
    line = client.get_run(tags["pretrain"]["mlflow.parentRunId"])
    assert line.info.run_name == "kinases"
    assert tags["finetune"]["mlflow.parentRunId"] == line.info.run_id
    assert tags["under"]["mlflow.parentRunId"] == ids["pretrain"]
    assert (tags["finetune"]["foldline.starts_from_run"], tags["finetune"]["foldline.stage"]) == (ids["pretrain"], "finetune")
    with pytest.raises(FoldlineError, match=r"tracking.parent = './nowhere' holds no run"):
        check_tracking(config(tmp_path, parent="./nowhere"))
    with pytest.raises(FoldlineError, match=r"tracking.register = 'a/b' is no name of a model"):
        check(config(tmp_path, register="a/b"))


def test_model_versions_and_the_champion(tmp_path: Path) -> None:
    """A better version takes the alias, a worse one and one of other data do not; sent twice it is one version; MLflow can read it."""
    uri = f"sqlite:///{tmp_path / 'all.db'}"
    client = MlflowClient(uri)
    other = {"dataset": DATASET | {"hash": "cd" * 32}}
    for seed, (value, more, champion) in enumerate([(0.5, {}, "1"), (0.4, {}, "1"), (0.7, {}, "3"), (0.9, other, "3")]):
        run = begin(config(tmp_path / f"run{seed}", register="fold"), **more)
        finish(run, value, seed)
        _, run_id = sync_run(run.root, uri)
        assert str(client.get_model_version_by_alias("fold", "champion").version) == champion
        if seed == 1:
            state = TrackingState.read(run.tracking)
            state.servers[uri].version = ""  # the answer to the registration was lost
            state.save()
            sync_run(run.root, uri)
    late = begin(config(tmp_path / "late", register="fold"))
    finish(late, None, 9)
    for value, champion in ((None, "3"), (0.8, "5")):  # a side job was not done yet when the run ended
        measured(late, value)
        sync_run(late.root, uri)
        assert str(client.get_model_version_by_alias("fold", "champion").version) == champion
    versions = sorted(client.search_model_versions("name = 'fold'"), key=lambda v: int(v.version))
    assert [v.tags["foldline.champion"].split(":")[0] for v in versions] == ["yes", "no", "yes", "no", "yes"]
    assert "foldline.dataset differs" in versions[3].tags["foldline.champion"]
    assert versions[3].run_id == run_id
    mlflow.set_tracking_uri(uri)
    try:
        folder = Path(mlflow.artifacts.download_artifacts("models:/fold@champion", dst_path=str(tmp_path / "got")))
        signature = mlflow.models.get_model_info(str(folder)).signature
    finally:
        mlflow.set_tracking_uri(None)
    assert {path.name for path in folder.iterdir()} >= {"MLmodel", "ema.safetensors", "config.json"}
    msa = next(spec for spec in signature.inputs if spec.name == "msa_feat")
    assert (msa.shape, msa.type) == ((-1, -1, 49), np.dtype(np.float32))


def test_an_export_is_a_child_of_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"sqlite:///{tmp_path / 'all.db'}"
    run, bundle = begin(config(tmp_path / "run", register="fold")), tmp_path / "bundle"
    finish(run, 0.5)
    weights = {"sha256": hashlib.sha256(run.weights.read_bytes()).hexdigest()}
    bundle.mkdir()
    manifest = {
        "identity": "1d" * 32,
        "run": str(run.root),
        "foldline": "0.1.0",
        "opset": 20,
        "weights": weights,
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    checks = [{"protein": p, "name": "RMSD of all atoms", "value": v} for p, v in (("a", 0.1), ("b", 0.3), ("c", "nan"))]
    engine = bundle / "engines" / "0123"
    engine.mkdir(parents=True)
    (engine / "engine.json").write_text(json.dumps({"depends": {"kind": "onnxruntime", "precision": "fp32", "device": "cpu"}}))
    assert main(["track", "export", str(bundle), "--uri", uri]) == 2
    assert "passed its gate" in capsys.readouterr().err
    cells = [{"contender": c, "residues": 77, "ratio": r, "peak": {"bytes": 5}} for c, r in (("PyTorch fp32", 1.0), ("engine", 2.5))]
    measured_speed = {"contenders": ["PyTorch fp32", "engine"], "cells": cells}
    report = {"passed": True, "reference": "torch", "checks": checks, "bench": measured_speed}
    (engine / "gate.json").write_text(json.dumps(report))
    (engine / "gate.html").write_text("<p>the page</p>")
    assert main(["track", "export", str(bundle), "--uri", uri]) == 2
    assert f"first: foldline track sync {run.root} --uri {uri}" in capsys.readouterr().err
    _, parent = sync_run(run.root, uri)
    for _ in range(2):
        assert main(["track", "export", str(bundle), "--uri", uri]) == 0
    client = MlflowClient(uri)
    (child,) = client.search_runs(["1"], f"tags.mlflow.parentRunId = '{parent}'")
    assert (child.data.metrics, child.info.status) == (
        {
            "gate/onnxruntime-fp32-cpu/RMSD of all atoms": 0.3,
            "speed/onnxruntime-fp32-cpu/times PyTorch 77 residues": 2.5,
            "speed/onnxruntime-fp32-cpu/peak bytes 77 residues": 5.0,
        },
        "FINISHED",
    )
    assert child.data.params["engine/0123"] == "onnxruntime-fp32-cpu, against torch"
    assert {f.path for f in client.list_artifacts(child.info.run_id)} == {"manifest.json", "engines"}
    there = {f.path for f in client.list_artifacts(child.info.run_id, "engines/0123")}
    assert there == {f"engines/0123/{name}" for name in ("engine.json", "gate.json", "gate.html")}
    assert client.get_model_version_by_alias("fold", "champion").tags["foldline.gate"] == "passed"
    (engine / "gate.json").write_text(json.dumps({"passed": False, "checks": []}))
    assert main(["track", "export", str(bundle), "--uri", uri]) == 2


def test_smaller_errors_win() -> None:
    tags = {"foldline.dataset": "d", "foldline.validation_set": "v", "foldline.metric": "validate/validation/rmsd_ca"}
    assert judge(tags | {"foldline.value": "2.0"}, tags | {"foldline.value": "3.0"})[0]
    assert not judge(tags | {"foldline.value": "3.0"}, tags | {"foldline.value": "2.0"})[0]
    assert not judge(tags | {"foldline.value": "nan"}, None)[0]
    assert not judge(tags, None)[0]


def test_every_host_s_samples_arrive(tmp_path: Path) -> None:
    run = begin(config(tmp_path))
    record(run, 1)
    for host in ("gpu01.cluster", "gpu:02"):
        sampler = SystemSampler(run.root, host, 0.05)
        sampler.step = 7
        time.sleep(0.2)
        sampler.close()
    _, run_id = sync_run(tmp_path, run.local_uri)
    client = MlflowClient(run.local_uri)
    for name in ("system/gpu01.cluster/cpu_share", "system/gpu_02/process_memory_gib"):
        history = client.get_metric_history(run_id, name)
        assert len(history) >= 2
        assert history[-1].step == 7
        assert history[-1].value >= 0


def test_tables_are_mlflow_s_and_a_resume_rewrites_its_steps(tmp_path: Path) -> None:
    run = begin(config(tmp_path))
    for step, value in ((0, 0.1), (4, float("nan")), (8, 0.3), (4, 0.2)):
        append_table(run.table, step, {"1ubq_A": {"split": "validation", "lddt_ca": value}})
    assert read_table(run.table) == (
        ["step", "chain", "split", "lddt_ca"],
        [[0, "1ubq_A", "validation", 0.1], [4, "1ubq_A", "validation", 0.2]],
    )
    _, run_id = sync_run(tmp_path, run.local_uri)
    mlflow.set_tracking_uri(run.local_uri)  # the client's own is not used for the file
    try:
        table = MlflowClient().load_table("1", "tables/validation.json", run_ids=[run_id])
    finally:
        mlflow.set_tracking_uri(None)
    assert table["lddt_ca"].tolist() == [0.1, 0.2]


def test_code_and_container(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    assert git_state(tmp_path) == {}
    git("init")
    (tmp_path / "__init__.py").write_text("a = 1")
    assert git_state(tmp_path) == {}  # in somebody's work tree, but no part of it
    git("add", ".")
    git("commit", "-m", "first")
    clean = git_state(tmp_path)
    assert (len(clean["commit"]), clean["dirty"]) == (40, False)
    (tmp_path / "__init__.py").write_text("a = 2")
    assert git_state(tmp_path) == clean | {"dirty": True}
    assert container({"APPTAINER_CONTAINER": "/a.sif"}, tmp_path) == "apptainer /a.sif"
    assert container({}, tmp_path) == ""
    (tmp_path / ".dockerenv").touch()
    assert container({}, tmp_path) == "docker"
