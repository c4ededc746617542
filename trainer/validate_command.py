"""``foldline validate``: from the command line to a side job of a run, or to one report on given weights."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from ..data_store.sampler import open_order
from ..errors import FoldlineError
from ..model.weights import read_weights
from ..whole_file import write_atomic
from .calibration_plot import draw_calibration
from .config import RunConfig, load_config
from .rundir import RunDir
from .side_validate import SideJob, check_step, only_one, open_store, run_directory, validate_along, validate_once
from .tracking.feed import read_config
from .tracking.sync import sync_run
from .tracking.tracker import uri_of
from .validate import Validator
from .validation_files import table
from .validation_report import chain_table, make_report
from .watching import RunWatch, file_digest

CONSOLE = Console(highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Print one line as it is."""
    CONSOLE.print(line, markup=False)


def validate_run(root: Path, watch: bool, step: int | None, device: str, silence: float, seconds: float) -> int:
    """Validate checkpoints of the run at ``root``: one, all that were not yet, or with ``watch`` each as it appears; the exit code."""
    if watch:
        _wait_for_start(RunDir(root), silence, seconds)
    run = run_directory(root)
    check_step(run, step)  # before a store that is away is waited for
    config = read_config(run)
    place = _start(config, device)
    with only_one(run):
        job = SideJob(config, run, place, say)
        code = validate_along(job, RunWatch(run, silence), say, seconds) if watch else validate_once(job, run, step)
    _tell_tracker(run, config)
    return code


def validate_weights(weights: Path, config_path: Path, overrides: Sequence[str], device: str, out: Path | None) -> int:
    """Validate a safetensors file on the sets of a config: means on the screen; in ``out`` the report, the chains' table, the picture."""
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FoldlineError(f"--out {out} is there already; give a new folder")
    config = load_config(config_path, overrides)
    tensors, about = read_weights(weights)
    place = _start(config, device)
    store = open_store(config)
    validator = Validator(config, store, open_order(store.path, config.data, config.features).chain_ids, place)
    if not validator.chains.chains:
        raise FoldlineError(f"{config_path} names nothing to validate on; give data.validation or validate.trained_chains")
    step = int(about.get("step", "0")) if about.get("step", "0").isdigit() else 0
    report = make_report(validator.run(tensors), validator.chains.digest, step, file_digest(weights))
    for line in table(report):
        say(line)
    if out is not None:
        write_atomic(out / "validation.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
        write_atomic(out / "validation.csv", chain_table(report))
        draw_calibration(report, out / "calibration.png")
        say(f"report: {out}")
    return 0


def _start(config: RunConfig, device: str) -> torch.device:
    torch.set_num_threads(config.run.threads or len(os.sched_getaffinity(0)))
    wanted = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise FoldlineError("--device cuda, but torch sees no CUDA device; give --device cpu or auto")
    return torch.device(wanted)


def _wait_for_start(run: RunDir, silence: float, seconds: float) -> None:
    """Let a job that was started together with its training wait for the run's directory, at most ``silence`` seconds."""
    end = time.monotonic() + silence
    while not run.config.exists() and time.monotonic() < end:
        time.sleep(min(seconds, 1.0))


def _tell_tracker(run: RunDir, config: RunConfig) -> None:
    """Send what came after the training's own end; while it goes on it sends these files itself. There is one sender at a time."""
    if not config.tracking.mlflow or config.tracking.offline:
        return
    try:
        sync_run(run.root, uri_of(config, run))
    except Exception as error:  # no server may keep a validation from ending well
        reason = str(error).splitlines()[0] if str(error) else ""
        say(f"MLflow lacks these results ({type(error).__name__}: {reason}); send them with: foldline track sync {run.root}")
