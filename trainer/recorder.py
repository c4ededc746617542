"""What rank 0 leaves behind and shows: journal, tracker, pictures, summary, printed lines. On other ranks every method does nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import psutil
import torch
from rich.console import Console

from .config import RunConfig, to_json
from .journal import Journal, read_journal
from .rundir import RunDir, environment, write_atomic
from .tracking import Tracker
from .validate import ChainScore, by_chain, summary

GIB = 2**30


class Recorder:
    """A context manager: leaving it ends the tracked run as FINISHED, as KILLED after ``stopped``, or as FAILED after an exception."""

    def __init__(self, config: RunConfig, run: RunDir, rank: int) -> None:
        self.active = rank == 0
        self._config = config
        self._run = run
        self._console = Console(highlight=False, soft_wrap=True, stderr=False)
        self._tracker: Tracker | None = None
        self._status = "FINISHED"
        self._window: list[Mapping[str, float]] = []
        self._sampled = 0.0
        self._process = psutil.Process()

    def start(self, resumed: int | None, mlflow_run: str, deepspeed: Mapping[str, Any], ranks: Sequence[str]) -> None:
        """Write the run's description and open journal and tracker; ``resumed`` is the step gone on from, None for a new run."""
        if not self.active:
            return
        write_atomic(self._run.config, to_json(self._config))
        write_atomic(self._run.deepspeed, json.dumps(deepspeed, indent=2) + "\n")
        write_atomic(self._run.environment, json.dumps(environment() | {"ranks": list(ranks)}, indent=2) + "\n")
        self._journal = Journal(self._run.journal)
        if resumed is not None:
            self._journal.append("resume", resumed, {})
        if self._config.tracking.mlflow:
            self._tracker = Tracker(self._config, self._run, mlflow_run)
        for line in ranks:
            self.say(line)

    def say(self, message: str) -> None:
        """Print one line."""
        if self.active:
            self._console.print(message, markup=False)

    def imported(self, said: str, metrics: Mapping[str, float]) -> None:
        """Record what the weights that the run starts from are worth before the first step."""
        if self.active:
            self._journal.append("imported", 0, metrics)
            loss, lddt = metrics["imported/loss/total"], metrics["imported/lddt_ca"]
            self.say(f"{said}; before step 1: loss {loss:.3f}, lDDT-Cα {lddt:.3f}, on the first step's samples without dropout")

    def trained(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record a step; print the means of the last few every ``run.log_every`` steps."""
        if not self.active:
            return
        self._journal.append("train", step, metrics)
        self._sample_system(step)
        self._window.append(metrics)
        if step % self._config.run.log_every == 0 or step == self._config.run.steps:
            self.say(progress_line(step, self._config.run.steps, self._window))
            self._window.clear()

    def validated(self, step: int, scores: Sequence[ChainScore]) -> None:
        """Record a validation, keep it as the run's before or after, draw it."""
        if not self.active:
            return
        means = summary(scores)
        self._journal.append("validate", step, means)
        try:
            kept = json.loads(self._run.summary.read_text())
        except (OSError, ValueError):
            kept = {}
        kept["after" if step else "before"] = {"step": step, **means, "chains": by_chain(scores)}
        write_atomic(self._run.summary, json.dumps(kept, indent=2) + "\n")
        parts = [f"{name.removeprefix('validate/').replace('/', ' ')} {value:.3f}" for name, value in means.items()]
        self.say(f"validation at step {step}: {', '.join(parts) or 'no chains'}")
        self._draw(step, scores)

    def saved(self, step: int, folder: str) -> None:
        """Force the journal to the disk with a checkpoint, and say where that is."""
        if self.active:
            self._journal.sync()
            self.say(f"checkpoint of step {step}: {folder}")

    def stopped(self) -> None:
        """The run was asked to stop and will be resumed."""
        self._status = "KILLED"

    @property
    def mlflow_run(self) -> str:
        """MLflow's id of this run, "" while there is none."""
        return self._tracker.run_id if self._tracker else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._tracker is not None:
            self._tracker.close("FAILED" if error is not None else self._status)
            if self._tracker.trouble:
                self.say(f"MLflow lacks the end of this run ({self._tracker.trouble}); {self._run.journal} has it, --resume sends it")

    def _draw(self, step: int, scores: Sequence[ChainScore]) -> None:
        from .plots import draw_curves, draw_distance_map

        for score in scores[: self._config.validate.pictures]:
            draw_distance_map(score, step, self._run.plots / f"distances_{score.chain_id}.png")
        draw_curves(read_journal(self._run.journal), self._run.plots / "curves.png")

    def _sample_system(self, step: int) -> None:
        now = time.monotonic()
        if now - self._sampled < self._config.tracking.system_seconds:
            return
        self._sampled = now
        values = {
            "system/process_memory_gib": self._process.memory_info().rss / GIB,
            "system/memory_used_share": psutil.virtual_memory().percent / 100,
            "system/cpu_share": psutil.cpu_percent(None) / 100,
        }
        if torch.cuda.is_available():
            values["system/gpu_peak_memory_gib"] = torch.cuda.max_memory_allocated() / GIB
        self._journal.append("system", step, values)


def progress_line(step: int, steps: int, window: Sequence[Mapping[str, float]]) -> str:
    """The printed line: means over ``window``, which holds the metrics of the last steps."""
    loss, lddt, norm, rate, wait = (
        sum(metrics[name] for metrics in window) / len(window)
        for name in ("loss/total", "train/lddt_ca", "optim/grad_norm", "speed/samples_per_second", "speed/data_wait_share")
    )
    return (
        f"step {step:>{len(str(steps))}}/{steps}  loss {loss:7.3f}  lDDT-Cα {lddt:.3f}  grad {norm:.2g}  "
        f"lr {window[-1]['optim/lr']:.2e}  {rate:.2f} samples/s  wait {wait:.1%}"
    )
