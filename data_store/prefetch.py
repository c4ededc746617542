"""Samples prepared ahead of the training step, in this process or in worker processes.

There is no torch here, so workers start fast and stay small.
"""

from __future__ import annotations

import logging
import multiprocessing
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from ..errors import FoldlineError
from .config import FeatureConfig
from .featurize import training_sample
from .sampler import SampleTask
from .store import Store
from .types import TrainBatch

_log = logging.getLogger(__name__)
_SLOW_SECONDS = 60.0
_EXIT_SECONDS = 5.0


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

    Workers are spawned, never forked: a forked child of a process that has opened a store or started threads may hang. Each has a pipe of
    its own, attended by one thread here; when either side dies, however and in the middle of whatever, the other reads the end of
    the pipe. (With the one pipe that concurrent.futures shares among its workers, a kill during a large result blocks for ever.)
    """

    def __init__(self, path: Path, features: FeatureConfig, workers: int, ahead: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._free: queue.SimpleQueue[tuple[Connection, BaseProcess]] = queue.SimpleQueue()
        self._workers: list[tuple[Connection, BaseProcess]] = []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, path, features), daemon=True)
            process.start()
            theirs.close()  # or the end of the pipe would never be read here
            self._workers.append((ours, process))
            self._free.put((ours, process))
        self._local = threading.local()
        self._threads = ThreadPoolExecutor(workers, initializer=self._attend)
        self._ahead = max(ahead, workers + 1)
        self._pending: deque[tuple[SampleTask, Future[TrainBatch]]] = deque()

    def results(self, tasks: Iterator[SampleTask]) -> Iterator[TrainBatch]:
        """The samples of ``tasks`` in order, as many under way as the pool prepares ahead."""
        for task in tasks:
            self._pending.append((task, self._threads.submit(self._request, task)))
            if len(self._pending) == self._ahead:
                yield self._next()
        while self._pending:
            yield self._next()

    def close(self) -> None:
        """Drop what is not finished and end the workers."""
        self._pending.clear()
        for _, process in self._workers:
            process.terminate()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for connection, process in self._workers:
            process.join()
            connection.close()

    def _next(self) -> TrainBatch:
        task, future = self._pending.popleft()
        while True:
            try:
                return future.result(timeout=_SLOW_SECONDS)
            except TimeoutError:
                _log.warning("still waiting for sample %d (chain '%s') after %.0f s", task.position, task.chain_id, _SLOW_SECONDS)

    def _attend(self) -> None:
        self._local.worker = self._free.get()

    def _request(self, task: SampleTask) -> TrainBatch:
        """Have this thread's worker make a sample."""
        connection, process = self._local.worker
        try:
            connection.send(task)
            answer = connection.recv()
        except (EOFError, OSError):
            process.join(_EXIT_SECONDS)
            raise FoldlineError(
                f"the data worker for sample {task.position} (chain '{task.chain_id}') died with exit code {process.exitcode}; -9 mostly "
                "means too little memory: lower data.workers or data.prefetch. A program of your own must start under "
                "`if __name__ == '__main__'`"
            ) from None
        if isinstance(answer, Exception):
            raise answer
        return TrainBatch(*answer)


def _serve(connection: Connection, path: Path, features: FeatureConfig) -> None:
    """A worker's life: answer tasks with samples or exceptions until the trainer is gone."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):  # sent to the whole job; the trainer answers them
        signal.signal(number, signal.SIG_IGN)
    make: SampleMaker | None = None
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            make = make or SampleMaker(path, features)
            answer: TrainBatch | Exception = make(task)
        except FoldlineError as error:
            answer = error
        except Exception:
            answer = RuntimeError(
                f"a bug met at sample {task.position} (chain '{task.chain_id}'), in a data worker:\n{traceback.format_exc()}"
            )
        try:
            connection.send(answer)
        except OSError:
            return
