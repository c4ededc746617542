"""Run directories as a training leaves them, without one: what tracking sends to MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from safetensors.numpy import save_file

from foldline.data_store.config import DataConfig
from foldline.trainer.config import RunConfig, RunSection, TrackingConfig, to_json
from foldline.trainer.journal import Journal
from foldline.trainer.rundir import RunDir

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
