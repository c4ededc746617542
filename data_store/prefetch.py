"""Samples prepared ahead of the training step, in this process or in worker processes.

There is no torch here, so workers start fast and stay small.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from ..errors import FoldlineError
from .config import FeatureConfig
from .featurize import training_sample
from .sampler import SampleTask
from .store import Store
from .types import TrainBatch

_log = logging.getLogger(__name__)
_SLOW_SECONDS = 60.0


class SampleMaker:
    """Makes the sample of a task from the store at ``path``."""

    def __init__(self, path: Path, features: FeatureConfig) -> None:
        self._store = Store.open(path)
        self._features = features

    def __call__(self, task: SampleTask) -> TrainBatch:
        """Read, featurize; numpy, no batch dimension. A problem of the chain is a FoldlineError that names the position."""
        try:
            return training_sample(self._store.record(task.chain_id), self._features, task.seed, task.n_cycles, task.position)
        except FoldlineError as error:
            raise FoldlineError(f"sample {task.position} (chain '{task.chain_id}'): {error}") from error


class SamplePool:
    """Worker processes that make samples; results come in the order of the tasks, work goes on behind a slow one.

    Workers are spawned, never forked: a forked child of a process that has opened a store or started threads may hang.
    """

    def __init__(self, path: Path, features: FeatureConfig, workers: int, ahead: int) -> None:
        self._executor = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (path, features))
        self._ahead = max(ahead, workers + 1)
        self._pending: deque[tuple[SampleTask, Future[TrainBatch]]] = deque()

    def results(self, tasks: Iterator[SampleTask]) -> Iterator[TrainBatch]:
        """The samples of ``tasks`` in order, ``ahead`` of them under way at any time."""
        for task in tasks:
            self._pending.append((task, self._executor.submit(_make, task)))
            if len(self._pending) == self._ahead:
                yield self._next()
        while self._pending:
            yield self._next()

    def close(self) -> None:
        """Drop what was not begun and end the workers."""
        self._pending.clear()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _next(self) -> TrainBatch:
        task, future = self._pending.popleft()
        while True:
            try:
                return future.result(timeout=_SLOW_SECONDS)
            except TimeoutError:
                _log.warning("still waiting for sample %d (chain '%s') after %.0f s", task.position, task.chain_id, _SLOW_SECONDS)
            except BrokenProcessPool:
                raise FoldlineError(
                    f"a data worker died while sample {task.position} (chain '{task.chain_id}') was awaited, probably killed for its "
                    "memory: lower data.workers or data.prefetch; a program of your own must start under `if __name__ == '__main__'`"
                ) from None


_maker: Callable[[SampleTask], TrainBatch] | None = None


def _start_worker(path: Path, features: FeatureConfig) -> None:
    global _maker
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):  # sent to the whole job; the trainer answers them
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _maker = SampleMaker(path, features)


def _make(task: SampleTask) -> TrainBatch:
    assert _maker is not None
    return _maker(task)


def _end_with_parent() -> None:
    """A trainer killed outright cannot end its workers; they notice."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
