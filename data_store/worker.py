"""One worker process that makes samples, and the end of the pipe to it.

There is no torch here, so workers start fast and stay small.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from ..errors import FoldlineError
from .compact import Sample
from .config import FeatureConfig
from .featurize import choose_rows, make_sample
from .outage import WAITING, StorePatience, StoreUnreachableError
from .sampler import SampleTask
from .store import Store

_EXIT_SECONDS = 5.0
_PICKLE = 5  # arrays are copied once


class SampleMaker:
    """Makes the sample of a task from the store at ``path``, for which it waits ``patience`` seconds. ``say`` hears what it is doing."""

    def __init__(self, path: Path | str, features: FeatureConfig, patience: float = 0.0, say: Callable[[str], None] | None = None) -> None:
        self._store = Store.open(path, StorePatience(patience, say) if say else StorePatience(patience))
        self._features = features
        self._say = say or (lambda stage: None)

    def __call__(self, task: SampleTask) -> Sample:
        """Read the rows that the sample may see, and no others; featurize. A problem of the chain is a FoldlineError that names it."""
        try:
            self._say("reading the chain")
            source = self._store.metadata(task.chain_id).source
            rows = choose_rows(self._store.msa_depth(task.chain_id), source, self._features, task.seed)
            record = self._store.record(task.chain_id, rows)
            self._say(f"making the features of {task.n_cycles} passes")
            return make_sample(record, self._features, task.seed, task.n_cycles, task.position)
        except StoreUnreachableError:
            raise
        except FoldlineError as error:
            raise FoldlineError(f"sample {task.position} (chain '{task.chain_id}'): {error}") from error


class DeadWorkerError(Exception):
    """The process ended in the middle of a task; ``exitcode`` as of ``multiprocessing``."""

    def __init__(self, exitcode: int | None) -> None:
        super().__init__(f"exit code {exitcode}")
        self.exitcode = exitcode


class Worker:
    """A process of its own with a pipe of its own; when either side dies, however and in the middle of whatever, the other reads the end
    of the pipe. (With one pipe shared among workers, a kill in the middle of a large result blocks for ever.)

    Spawned, never forked: a forked child of a process that has opened a store or started threads may hang. One thread calls ``make``; any
    may read ``task``, ``stage`` and ``seconds``, and ``kill``.
    """

    def __init__(self, path: Path | str, features: FeatureConfig, patience: float = 0.0) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, path, features, patience), daemon=True)
        self._process.start()
        theirs.close()  # or the end of the pipe would never be read here
        self.task: SampleTask | None = None
        self.stage = ""
        self._since = 0.0

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid or 0

    @property
    def waiting(self) -> bool:
        """Whether the store keeps it waiting; ``stage`` then says which and why."""
        return self.task is not None and self.stage.startswith(WAITING)

    @property
    def seconds(self) -> float:
        """Since ``task`` was given to it."""
        return time.monotonic() - self._since

    def make(self, task: SampleTask) -> Sample:
        """The sample of ``task``. Raises what was raised while making it, and DeadWorkerError."""
        self._since, self.stage, self.task = time.monotonic(), "starting", task
        try:
            self._connection.send(task)
            answer = pickle.loads(self._connection.recv_bytes())
            while isinstance(answer, str):
                if self.waiting:
                    self._since = time.monotonic()  # what the store took is not the sample's
                self.stage = answer
                answer = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            self._process.join(_EXIT_SECONDS)
            raise DeadWorkerError(self._process.exitcode) from None
        finally:
            self.task = None
        if isinstance(answer, Exception):
            raise answer
        sample: Sample = answer
        return sample

    def kill(self) -> None:
        """End the process at once; ``make`` then raises DeadWorkerError."""
        self._process.kill()

    def close(self) -> None:
        """End the process and free the pipe; not while ``make`` runs."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def _serve(connection: Connection, path: Path | str, features: FeatureConfig, patience: float) -> None:
    """A worker's life: answer tasks with samples or exceptions, and with what it is doing before, until the trainer is gone."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):  # sent to the whole job; the trainer answers them
        signal.signal(number, signal.SIG_IGN)

    def send(answer: Sample | Exception | str) -> None:
        connection.send_bytes(pickle.dumps(answer, _PICKLE))

    def say(stage: str) -> None:
        with suppress(OSError):  # without a trainer the answer that follows ends this process
            send(stage)

    maker: SampleMaker | None = None
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        answer: Sample | Exception
        try:
            say("opening the store")
            maker = maker or SampleMaker(path, features, patience, say)
            answer = maker(task)
        except FoldlineError as error:
            answer = error
        except Exception:
            answer = _bug(task)
        try:
            send(answer)
        except OSError:
            return


def _bug(task: SampleTask) -> RuntimeError:
    return RuntimeError(f"a bug met at sample {task.position} (chain '{task.chain_id}'), in a data worker:\n{traceback.format_exc()}")
