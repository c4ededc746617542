"""What rank 0 leaves behind and shows: journal, tracker, pictures, summary, printed lines.

On other ranks every method does nothing, except that the first rank of each host samples the host.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from ..cluster.ranks import RankInfo
from ..data_store.store import Store
from ..errors import UNAVAILABLE
from ..whole_file import write_atomic
from .config import RunConfig, to_json
from .journal import Journal
from .provenance import provenance
from .run_state import FAILED, FINISHED, LOST, RUNNING, STOPPED, tell
from .rundir import RunDir, environment
from .score import ChainScore
from .system import SystemSampler
from .tracking.tracker import Tracker
from .validation_files import ValidationFiles
from .validation_set import ValidationSet


class Recorder:
    """A context manager: leaving it ends the tracked run as FINISHED, as KILLED after ``stopped``, or as FAILED after an exception.

    A run that goes on is told as running at once, so that nobody takes how it ended last for its end; where it then cannot start, what was
    told before stands again.
    """

    def __init__(self, config: RunConfig, run: RunDir, ranks: RankInfo) -> None:
        self.active = ranks.rank == 0
        self._ranks = ranks
        self._config = config
        self._run = run
        self._console = Console(highlight=False, soft_wrap=True, stderr=False)
        self._tracker: Tracker | None = None
        self._state = FINISHED
        self._window: list[Mapping[str, float]] = []
        self._sampler: SystemSampler | None = None
        self._before = ""  # what state.json said of the run's last start
        self._journal: Journal | None = None
        self._trouble = ""  # of the journal, as last told

    def start(self, resumed: int | None, mlflow_run: str, deepspeed: Mapping[str, Any], ranks: Sequence[RankInfo], store: Store) -> None:
        """Write the run's description and open journal and tracker; ``resumed`` is the step gone on from, None for a new run."""
        if self._ranks.local_rank == 0:
            self._sampler = SystemSampler(self._run.root, self._ranks.host, self._config.tracking.system_seconds)
        if not self.active:
            return
        lines = [place.describe() for place in ranks]
        write_atomic(self._run.config, to_json(self._config))
        write_atomic(self._run.deepspeed, json.dumps(deepspeed, indent=2) + "\n")
        about = environment() | {"ranks": lines} | provenance(self._config, [place.host for place in ranks], store)
        write_atomic(self._run.environment, json.dumps(about, indent=2) + "\n")
        self._journal = Journal(self._run.journal)
        self._files = ValidationFiles(self._config, self._run, self._journal, store, whole=True)
        if resumed is not None:
            self._journal.append("resume", resumed, {})
        tell(self._run.state, RUNNING)
        if self._config.tracking.mlflow and not self._config.tracking.offline:
            self._tracker = Tracker(self._config, self._run, mlflow_run)
        for line in lines:
            self.say(line)

    def say(self, message: str) -> None:
        """Print one line."""
        if self.active:
            self._console.print(message, markup=False)

    def tell(self, lines: Sequence[str]) -> None:
        """Print several lines."""
        for line in lines:
            self.say(line)

    def imported(self, said: str, metrics: Mapping[str, float]) -> None:
        """Record what the weights that the run starts from are worth before the first step."""
        if self._journal:
            self._journal.append("imported", 0, metrics)
            loss, lddt = metrics["imported/loss/total"], metrics["imported/lddt_ca"]
            self.say(f"{said}; before step 1: loss {loss:.3f}, lDDT-Cα {lddt:.3f}, on the first step's samples without dropout")

    def trained(self, step: int, metrics: Mapping[str, float], skipped: str) -> None:
        """Record a step; print the means of the last few every ``run.log_every`` steps, and ``skipped``, why this one moved nothing."""
        if self._sampler is not None:
            self._sampler.step = step
        if not self._journal:
            return
        self._journal.append("train", step, metrics)
        self._tell_trouble()
        if skipped:
            self.say(skipped)
        else:
            self._window.append(metrics)
        if self._window and (step % self._config.run.log_every == 0 or step == self._config.run.steps):
            self.say(progress_line(step, self._config.run.steps, self._window))
            self._window.clear()

    def validated(self, step: int, scores: Sequence[ChainScore], chains: ValidationSet) -> None:
        """Record a validation, keep it as the run's before or after, draw it."""
        if self._journal:
            for line in self._files.write(step, scores, chains, ""):
                self.say(line)

    def saving(self) -> str:
        """Force the journal to the disk before a checkpoint that counts on it; why it is not all there, or ""."""
        trouble = self._journal.sync() if self._journal else ""
        return f"{self._run.journal} lacks lines that wait in memory: {trouble}" if trouble else ""

    def stopped(self) -> None:
        """The run was asked to stop and will be resumed."""
        self._state = STOPPED

    @property
    def mlflow_run(self) -> str:
        """MLflow's id of this run, "" while there is none."""
        return self._tracker.run_id if self._tracker else ""

    def __enter__(self) -> Self:
        if self.active and self._run.state.exists():
            self._before = self._run.state.read_text()
            tell(self._run.state, RUNNING)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._sampler is not None:
            self._sampler.close()
        if self._journal:
            trouble = self._journal.close()
            if trouble:
                self.say(f"{self._run.journal} lacks the last lines of this run: {trouble}; --resume makes up for them")
            tell(self._run.state, self._state if error is None else _state_after(error))
        elif self._before:
            write_atomic(self._run.state, self._before)
        if self._tracker is not None:
            self._tracker.close()
            if self._tracker.trouble:
                self.say(f"MLflow lacks the end of this run ({self._tracker.trouble}); send it with: foldline track sync {self._run.root}")

    def _tell_trouble(self) -> None:
        """Print that the disk does not take the journal, and that it does again, once each."""
        trouble = self._journal.trouble if self._journal else ""
        if bool(trouble) != bool(self._trouble):
            waits = f"is not written ({trouble}); its lines wait in memory, and checkpoints for them; training goes on"
            self.say(f"{self._run.journal} {waits if trouble else 'is written again; no line is missing'}")
        self._trouble = trouble


def _state_after(error: BaseException) -> str:
    return LOST if getattr(error, "exit_code", None) == UNAVAILABLE else FAILED


def progress_line(step: int, steps: int, window: Sequence[Mapping[str, float]]) -> str:
    """The printed line: means over ``window``, which holds the metrics of the last steps, and the time left at their pace."""
    loss, lddt, norm, rate, wait, used, seconds = (
        sum(metrics[name] for metrics in window) / len(window)
        for name in (
            "loss/total",
            "train/lddt_ca",
            "optim/grad_norm",
            "speed/samples_per_second",
            "speed/data_wait_share",
            "speed/mfu",
            "time/step",
        )
    )
    left = timedelta(seconds=round(seconds * (steps - step)))
    return (
        f"step {step:>{len(str(steps))}}/{steps}  loss {loss:7.3f}  lDDT-Cα {lddt:.3f}  grad {norm:.2g}  "
        f"lr {window[-1]['optim/lr']:.2e}  {rate:.2f} samples/s  wait {wait:.1%}  MFU {used:.1%}  left {left}"
    )
