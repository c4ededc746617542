"""The run directory: what lies where, and whether a run may start or continue in it."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__
from ..data_store.outage import StorePatience
from ..data_store.sampler import open_order
from ..data_store.store import Store
from ..errors import FoldlineError
from .config import RunConfig, changed_keys, store_patience

PACKAGES = ("torch", "deepspeed", "mlflow", "numpy", "zarr", "tensorstore", "safetensors")


class RunDir:
    """Paths of one run; export reads ``config.json`` and ``weights/ema.safetensors``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.json"
        self.checkpoints = root / "checkpoints"
        self.weights = root / "weights" / "ema.safetensors"
        self.best = root / "weights" / "best.safetensors"
        self.validation = root / "validation"
        self.replays = root / "replays"
        self.ranks = root / "ranks"
        self.crash = root / "crash"
        self.journal = root / "metrics.jsonl"
        self.plots = root / "plots"
        self.summary = root / "summary.json"
        self.deepspeed = root / "deepspeed.json"
        self.environment = root / "environment.json"
        self.tracking = root / "tracking.json"
        self.tracking_lock = root / ".tracking.lock"
        self.state = root / "state.json"
        self.table = root / "tables" / "validation.json"
        self.local_uri = f"sqlite:///{(root / 'mlflow.db').resolve()}"


def check_start(config: RunConfig, resume: bool) -> None:
    """Raise FoldlineError unless a run with this config may start (or, with ``resume``, continue) in ``run.dir``.

    Reads only, so that it can be called before the ranks start and again by each of them.
    """
    run = RunDir(Path(config.run.dir))
    if resume:
        Store.open(config.data.store, StorePatience(store_patience(config)))  # it was there once, and may be away just now
    if not config.data.store.startswith("s3://") and not Path(config.data.store).exists():
        raise FoldlineError(f"data.store = {config.data.store!r} is not there; make it: foldline ingest SOURCE --store {config.data.store}")
    open_order(config.data.store, config.data, config.features)  # says what the store lacks, and why no chain can be trained on
    mirror = Path(config.run.checkpoint_mirror) if config.run.checkpoint_mirror else None
    copies = sorted(mirror.glob("step_*/manifest.json")) if mirror else []
    saved_there = any(run.checkpoints.glob("step_*/manifest.json"))
    if not resume:
        if run.config.exists() and not saved_there and not copies:
            raise FoldlineError(
                f"{run.root} holds a run that ended before its first checkpoint; delete or rename it, or give another run.dir"
            )
        if run.config.exists():
            raise FoldlineError(f"{run.root} already holds a run; continue it with --resume, or give another run.dir")
        if copies:
            raise FoldlineError(f"run.checkpoint_mirror = {str(mirror)!r} already holds checkpoints of a run; give each run its own")
        return
    if not copies and not (run.config.exists() and saved_there):
        first = f"delete or rename {run.root} and " if run.config.exists() else ""
        raise FoldlineError(
            f"--resume: {run.root} holds no checkpoint; {first}start without --resume, or give the run.dir of a run that saved one"
        )
    described = run.config if run.config.exists() or not copies else copies[-1].with_name("config.json")
    try:
        saved = json.loads(described.read_text())
    except (OSError, ValueError) as error:
        raise FoldlineError(f"{described} is not readable: {error}; copy it back from a checkpoint of this run") from None
    changed = changed_keys(saved, config)
    if changed:
        raise FoldlineError(
            f"--resume: {run.root} was started with other settings: {', '.join(changed)}; restore them, or start a new run.dir"
        )


def environment() -> dict[str, Any]:
    """What a run was made with: versions of Python and of the packages that decide numbers, and the machine."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return {"foldline": __version__, "python": sys.version.split()[0], "platform": platform.platform(), "packages": versions}
