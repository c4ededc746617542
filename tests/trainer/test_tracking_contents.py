"""What MLflow shows of runs: lines of them, model versions and the champion, exports, hosts, tables, where the code came from."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from foldline.cli import main
from foldline.errors import FoldlineError
from foldline.tests.trainer.tracked_runs import DATASET, begin, config, finish, measured, record
from foldline.trainer.config import check
from foldline.trainer.provenance import container, git_state, run_of_weights
from foldline.trainer.system import SystemSampler
from foldline.trainer.tables import append_table, read_table
from foldline.trainer.tracking.registry import judge
from foldline.trainer.tracking.state import TrackingState
from foldline.trainer.tracking.sync import in_order, sync_run
from foldline.trainer.tracking.tracker import check_tracking


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
