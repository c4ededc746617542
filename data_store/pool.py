"""One pool for work that splits into independent units: this process, spawned processes, or the ranks of an MPI job."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any, ParamSpec, TypeVar

from ..errors import FoldlineError, missing_package

P = ParamSpec("P")
T = TypeVar("T")

_TERMINATED = 128 + signal.SIGTERM
_GRACE = 10.0  # seconds that a worker has to end its programs before it is killed


@contextlib.contextmanager
def worker_pool(workers: int, mpi: bool) -> Iterator[Executor]:
    """An executor whose ``submit(function, *args)`` runs module-level functions: here (one worker), in ``workers`` spawned
    processes, or with ``mpi`` on the other ranks of the job (mpi4py.futures; a job of one rank works by itself).

    Under MPI every rank calls this and only rank 0 enters the block: the others serve until it is left, then exit with code 0. Open the
    pool before the first line is printed.

    SIGTERM (a batch system's warning) unwinds the block and the running units as an exit does, so their ``finally`` clauses run; so does
    an interrupt. Units that have not begun are dropped. A worker whose parent dies ends itself.

    Raises FoldlineError for ``workers`` < 1 and for ``mpi`` without mpi4py.
    """
    if workers < 1:
        raise FoldlineError(f"--workers {workers}: at least one worker must do the work")
    if mpi:
        with _on_ranks() as executor:
            yield executor
    elif workers == 1:
        with _exit_on_sigterm():
            yield _Here()
    else:
        with _exit_on_sigterm(), _in_processes(workers) as executor:
            yield executor


class _Here(Executor):
    """Runs each unit at once, in this process."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _Elsewhere(Executor):
    """Sends each unit to ``executor``, wrapped so that a worker told to stop also ends."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._executor.submit(_unit, fn, *args, **kwargs)


def _unit(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Run in a worker. Executors return SystemExit as a result and fetch the next unit; a worker told to stop must not."""
    try:
        return fn(*args, **kwargs)
    except SystemExit:
        os._exit(_TERMINATED)


@contextlib.contextmanager
def _in_processes(workers: int) -> Iterator[Executor]:
    before = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        yield _Elsewhere(executor)
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        ours = [child for child in multiprocessing.active_children() if child not in before]
        for child in ours:
            child.terminate()
        for child in ours:
            child.join(_GRACE)
            child.kill()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """First act of a spawned worker: a keyboard interrupt is the parent's to handle, and the parent's death is an order to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _on_ranks() -> Iterator[Executor]:
    try:
        from mpi4py.futures import MPICommExecutor
    except ImportError:
        raise missing_package("mpi4py", "train", "--mpi") from None
    ranks: Any = MPICommExecutor()  # its own annotations call the executor by the wrong type
    with _exit_on_sigterm():
        with ranks as executor:
            if executor is not None:
                try:
                    yield _Elsewhere(executor)
                except BaseException:
                    executor.shutdown(wait=False, cancel_futures=True)
                    raise
                return
        sys.exit(0)


@contextlib.contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """SIGTERM as SystemExit inside the block, where Python allows handlers (the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def _exit(number: int, frame: object) -> None:
    """Unwind once. A pool that loses one worker terminates the others a second time, in the middle of their ``finally`` clauses."""
    signal.signal(signal.SIGTERM, _stops_already)
    raise SystemExit(_TERMINATED)


def _stops_already(number: int, frame: object) -> None:
    """Not SIG_IGN, which programs started from here would inherit."""
