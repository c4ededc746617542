"""Samples prepared ahead of the training step by worker processes: in order, bounded, and with an eye on those that take too long."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ..errors import FoldlineError
from .compact import Sample
from .config import FeatureConfig
from .sampler import SampleTask
from .worker import DeadWorkerError, Worker

_log = logging.getLogger(__name__)
_ATTEMPTS = 2
_LOOK_SECONDS = 1.0


class Patience(NamedTuple):
    """Seconds after which a sample is reported as slow, after which its worker is taken to be stuck, and that a worker waits for the
    store, which counts as neither."""

    slow: float
    stuck: float
    store: float = 0.0


class _Slot:
    """A worker's place in the pool; the worker in it may be replaced."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.stuck: SampleTask | None = None  # what the watchdog killed it over
        self.warn_after = 0.0


class SamplePool:
    """Worker processes that make samples. Results come in the order of the tasks; work goes on behind a slow one until ``ahead`` samples
    are made or under way, which bounds the memory here to ``ahead`` compact samples.

    A watchdog thread names each sample that takes longer than ``patience.slow`` seconds and kills its worker at ``patience.stuck``. A
    worker that is killed, by whomever, is replaced and its sample tried once more; the second time is a FoldlineError.
    """

    def __init__(self, path: Path | str, features: FeatureConfig, workers: int, ahead: int, patience: Patience) -> None:
        self._place = (path, features, patience.store)
        self._patience = patience
        self.ahead = max(ahead, workers + 1)
        self.replaced = 0  # workers, so far
        self._closed = threading.Event()
        self._replacing = threading.Lock()
        self._slots = [_Slot(Worker(*self._place)) for _ in range(workers)]
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for slot in self._slots:
            self._free.put(slot)
        self._local = threading.local()
        self._threads = ThreadPoolExecutor(workers, initializer=self._attend)
        self._pending: deque[Future[Sample]] = deque()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def ready(self) -> int:
        """Samples that are made and wait for their turn."""
        return sum(future.done() for future in tuple(self._pending))

    def results(self, tasks: Iterator[SampleTask]) -> Iterator[Sample]:
        """The samples of ``tasks`` in order."""
        for task in tasks:
            self._pending.append(self._threads.submit(self._request, task))
            if len(self._pending) == self.ahead:
                yield self._pending.popleft().result()
        while self._pending:
            yield self._pending.popleft().result()

    def close(self) -> None:
        """Drop what is not finished and end the workers."""
        with self._replacing:
            self._closed.set()
        for slot in self._slots:
            slot.worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()
        for slot in self._slots:
            slot.worker.close()

    def _attend(self) -> None:
        self._local.slot = self._free.get()

    def _request(self, task: SampleTask) -> Sample:
        """Have this thread's worker make a sample, and another one when that dies."""
        slot: _Slot = self._local.slot
        for attempt in range(1, _ATTEMPTS + 1):
            slot.stuck, slot.warn_after = None, self._patience.slow
            try:
                return slot.worker.make(task)
            except DeadWorkerError as death:
                if self._closed.is_set():
                    raise FoldlineError("the loader was closed") from None
                problem = self._explain(task, death, slot.stuck is not None)
            if attempt < _ATTEMPTS:
                _log.warning("%s; another worker tries once more", problem)
            self._replace(slot)
        raise FoldlineError(
            f"{problem}; so did the one before it. To train without this chain: data.hold_out = ['{task.chain_id}']. "
            "A program of your own must start under `if __name__ == '__main__'`"
        )

    def _explain(self, task: SampleTask, death: DeadWorkerError, stuck: bool) -> str:
        what = f"the data worker for sample {task.position} (chain '{task.chain_id}')"
        if stuck:
            return f"{what} was stuck and killed after data.stuck_sample_seconds = {self._patience.stuck:g}"
        memory = " (-9 mostly means too little memory: lower data.workers or data.prefetch)" if death.exitcode == -9 else ""
        return f"{what} died with exit code {death.exitcode}{memory}"

    def _replace(self, slot: _Slot) -> None:
        with self._replacing:
            if self._closed.is_set():
                raise FoldlineError("the loader was closed")
            slot.worker.close()
            slot.worker = Worker(*self._place)
            self.replaced += 1

    def _watch(self) -> None:
        outage = False
        while not self._closed.wait(min(_LOOK_SECONDS, self._patience.slow / 4)):
            waiting = [slot.worker.stage for slot in self._slots if slot.worker.waiting]
            if bool(waiting) != outage:
                outage = bool(waiting)
                _log.warning("%s", waiting[0] if waiting else "the store is there again")
            for slot in self._slots:
                if not slot.worker.waiting:
                    self._look_at(slot)

    def _look_at(self, slot: _Slot) -> None:
        """Report a slow sample, at ever doubled times; kill the worker of one that is stuck."""
        worker = slot.worker
        task, stage, seconds = worker.task, worker.stage, worker.seconds
        if task is None or seconds < min(slot.warn_after, self._patience.stuck):
            return
        where = (task.position, task.chain_id, seconds, worker.pid, stage)
        if seconds >= self._patience.stuck:
            if slot.stuck is None:
                _log.warning("sample %d (chain '%s') is not made after %.0f s: killing its worker %d (%s)", *where)
                slot.stuck = task
                worker.kill()
            return
        _log.warning("slow: sample %d (chain '%s') has taken %.0f s so far; worker %d is %s", *where)
        slot.warn_after = 2 * seconds
