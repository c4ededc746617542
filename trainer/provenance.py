"""Where a run comes from: code, data, hosts, job, container. Rank 0 writes it into ``environment.json`` at each start."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data_store.store import Store
from ..data_store.types import FeatureBatch, schema_of
from .config import RunConfig

PACKAGE = Path(__file__).resolve().parents[1]
JOB_VARIABLES = (
    "SLURM_JOB_ID",
    "SLURM_JOB_NAME",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_JOB_PARTITION",
    "PBS_JOBID",
    "LSB_JOBID",
)
GIT_SECONDS = 10.0


def provenance(config: RunConfig, hosts: Sequence[str], store: Store) -> dict[str, Any]:
    """Sections "git", "dataset", "hosts", "world", "zero_stage", "job", "container" and "starts_from"; ``hosts`` has one name per rank."""
    return {
        "git": git_state(PACKAGE),
        "dataset": describe_dataset(config, store),
        "hosts": list(dict.fromkeys(hosts)),
        "world": len(hosts),
        "zero_stage": config.deepspeed.zero_stage,
        "job": {name.lower(): os.environ[name] for name in JOB_VARIABLES if os.environ.get(name)},
        "container": container(os.environ, Path("/")),
        "starts_from": str(origin) if (origin := run_of_weights(config.run.init_weights)) else "",
    }


def git_state(folder: Path) -> dict[str, Any]:
    """{"commit", "dirty"} of the work tree that tracks ``folder``'s code; {} for an installed package and where git is missing."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS, stdin=subprocess.DEVNULL)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # a virtual environment may lie inside somebody else's work tree
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def describe_dataset(config: RunConfig, store: Store) -> dict[str, Any]:
    """The store as MLflow's dataset inputs want it: name, hash of the content, place, schema and counts."""
    lengths = np.asarray(store.lengths)
    features = {name: [field.kind, *field.dims] for name, field in schema_of(FeatureBatch).items()}
    return {
        "name": Path(config.data.store).name,
        "hash": store.content_hash,
        "source": place if "://" in (place := config.data.store) else str(Path(place).resolve()),
        "schema": features,
        "profile": {
            "chains": len(store),
            "residues": int(lengths.sum()),
            "longest": int(lengths.max(initial=0)),
            "trained_chains": len(config.data.train) or len(store) - len(config.data.validation),
            "validation_chains": len(config.data.validation),
        },
    }


def container(environment: Mapping[str, str], root: Path) -> str:
    """The container that this process runs in, with its image where that is known; "" outside of one."""
    for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"):
        if environment.get(name):
            return f"apptainer {environment[name]}"
    if environment.get("KUBERNETES_SERVICE_HOST"):
        return f"kubernetes {environment.get('HOSTNAME', '')}".strip()
    if (root / "run" / ".containerenv").exists():
        return "podman"
    return "docker" if (root / ".dockerenv").exists() else ""


def run_of_weights(weights: str) -> Path | None:
    """The run directory that a weights file lies in, None for "" and for weights from elsewhere."""
    if not weights:
        return None
    parents = Path(weights).resolve().parents
    return next((folder for folder in parents if (folder / "config.json").is_file() and (folder / "metrics.jsonl").is_file()), None)
