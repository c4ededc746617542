"""``foldline validate``: a job beside the training that validates its checkpoints, so that the training ranks never stop for it.

It reads what the training wrote and writes its own files: its journal (``metrics.validation.jsonl``), ``validation/``, and in a run with
``validate.mode = "async"`` also summary, tables, pictures and ``weights/best.safetensors``, which the training then leaves alone.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..data_store.outage import StorePatience
from ..data_store.sampler import open_order
from ..data_store.store import Store
from ..errors import FoldlineError
from ..model.weights import read_weights
from .best import judge
from .checkpoint import publish, read_manifest
from .config import RunConfig, store_patience
from .journal import Journal, side_journal
from .rundir import RunDir
from .validate import Validator
from .validation_files import ValidationFiles, read_report
from .watching import RunWatch, file_digest

Say = Callable[[str], None]


class SideJob:
    """Validates checkpoints of one run, one after another."""

    def __init__(self, config: RunConfig, run: RunDir, device: torch.device, say: Say) -> None:
        self._config, self._run, self._say = config, run, say
        store = open_store(config)
        order = open_order(store.path, config.data, config.features)
        self._validator = Validator(config, store, order.chain_ids, device)
        self._owner = config.validate.mode == "async"
        self._files = ValidationFiles(config, run, Journal(side_journal(run.journal)), store, whole=self._owner)
        self._candidate = run.validation / ".candidate.safetensors"
        self._refused: set[str] = set()  # hashes of weights that are not what their manifest says

    def pending(self) -> list[int]:
        """Steps whose checkpoint has no report on these weights and this set yet, oldest first."""
        return [step for step in self._steps() if self._is_new(step)]

    def validate(self, step: int) -> bool:
        """Validate the checkpoint of ``step`` and leave its results; False, with a line, where it is gone or damaged."""
        folder = self._run.checkpoints / f"step_{step:08d}"
        try:
            expected = read_manifest(folder).files["ema.safetensors"]
            self._candidate.unlink(missing_ok=True)
            publish(folder / "ema.safetensors", self._candidate)  # stays readable when the training removes the checkpoint
        except (FoldlineError, OSError):
            self._say(f"the checkpoint of step {step} was removed before it could be validated; raise run.keep_last")
            return False
        if file_digest(self._candidate) != expected:
            self._refused.add(expected)
            self._say(f"{folder / 'ema.safetensors'} has other bytes than were written; it is not validated")
            return False
        tensors, _ = read_weights(self._candidate)
        scores = self._validator.run(tensors)
        for line in self._files.write(step, scores, self._validator.chains, expected):
            self._say(line)
        if self._owner and judge(self._run.journal, self._config, {*self._steps(), step}).best[:1] == (step,):
            os.replace(self._candidate, self._run.best)
            self._say(f"step {step} is the best so far: {self._run.best}")
        self._candidate.unlink(missing_ok=True)
        return True

    def _steps(self) -> list[int]:
        return sorted(int(path.parent.name.removeprefix("step_")) for path in self._run.checkpoints.glob("step_*/manifest.json"))

    def _is_new(self, step: int) -> bool:
        try:
            weights = read_manifest(self._run.checkpoints / f"step_{step:08d}").files["ema.safetensors"]
        except FoldlineError:
            return False
        report = read_report(self._run, step)
        done = report is not None and (report["weights"], report["set"]) == (weights, self._validator.chains.digest)
        return not done and weights not in self._refused


def validate_once(job: SideJob, run: RunDir, step: int | None) -> int:
    """Validate the checkpoint of ``step``, or all that were not validated yet. FoldlineError where ``step`` has none."""
    check_step(run, step)
    done = [job.validate(each) for each in ([step] if step is not None else job.pending())]
    return 0 if all(done) else 2


def check_step(run: RunDir, step: int | None) -> None:
    """FoldlineError where ``step`` has no checkpoint."""
    if step is not None and not (run.checkpoints / f"step_{step:08d}" / "manifest.json").exists():
        there = sorted(int(path.parent.name[5:]) for path in run.checkpoints.glob("step_*/manifest.json"))
        raise FoldlineError(
            f"--checkpoint {step}: {run.root} has no checkpoint of that step; it has {', '.join(map(str, there)) or 'none'}"
        )


def validate_along(job: SideJob, watch: RunWatch, say: Say, seconds: float) -> int:
    """Validate each checkpoint as it appears, until the run has ended and nothing is left."""
    while True:
        ended = watch.ended()  # asked first: what the run saved before its end is then seen below
        steps = job.pending()
        for step in steps[:1]:
            job.validate(step)
        if ended and not steps:
            say(ended)
            return 0
        if not steps:
            time.sleep(seconds)


def open_store(config: RunConfig) -> Store:
    """The run's feature store, by the path in its config, with the run's patience."""
    return Store.open(config.data.store, StorePatience(store_patience(config)))


@contextmanager
def only_one(run: RunDir) -> Iterator[None]:
    """Keep other side jobs away from ``run``: its files have one writer each. FoldlineError where one is at work."""
    run.validation.mkdir(parents=True, exist_ok=True)
    with (run.validation / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FoldlineError(f"another `foldline validate` works on {run.root}; end it first, or let it go on alone") from None
        yield


def run_directory(root: Path) -> RunDir:
    """The run at ``root``. FoldlineError where there is none."""
    run = RunDir(root)
    if not run.config.exists():
        raise FoldlineError(f"--run {root} holds no run (no {run.config.name}); give the run.dir of a training")
    return run
