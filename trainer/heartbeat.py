"""Every rank shows that it lives, and looks who does not: a job never waits for a lost rank longer than ``run.collective_timeout``.

A thread of each rank rewrites ``RUN/ranks/rank_00000.json`` (host, process, step, what it does) eight times per time-out. While this rank
gets on nobody reads them; only a rank that is stuck looks whose file stays as it is, and who left by an error, whose message and exit code
it then takes over: ranks end together. Change counts, not the time: clocks of hosts differ.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import torch.distributed as dist

from ..cluster.ranks import RankInfo
from ..errors import UNAVAILABLE, FoldlineError
from ..whole_file import write_atomic

BEATS = 8  # per time-out
SLOWEST = 15.0  # seconds between beats, however long the time-out
WAY_OUT = "start again with --resume; --launcher mpi --max-restarts N does so by itself"


class LostRankError(FoldlineError):
    """Another rank of the job died, hangs, or left by an error of its own, whose exit code is then this one's."""

    def __init__(self, message: str, exit_code: int = UNAVAILABLE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Heartbeat:
    """A context manager around a run's steps; ``at`` says where this rank is. Ends the process when it waits for a lost rank, after a call
    of ``ending`` with its exit code.
    """

    def __init__(
        self,
        folder: Path,
        mine: RankInfo,
        ranks: Sequence[RankInfo],
        timeout: float,
        ending: Callable[[int], None] = lambda code: None,
        completed: Callable[[str], str] = str,
    ) -> None:
        self._folder = folder
        self._mine = mine
        self._others = [place for place in ranks if place.rank != mine.rank]
        self._timeout = timeout
        self._every = min(timeout / BEATS, SLOWEST)
        self._ending, self._completed = ending, completed
        self._place = (0, "starting")
        self._error: dict[str, str | int] = {}
        self._told_trouble = False
        self._since = time.monotonic()
        self._beats = 0
        self._launcher = os.getppid() if mine.source == "mpi" else 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)

    def at(self, step: int, doing: str) -> None:
        """This rank gets on: it is about to do ``doing`` for ``step``. Cheap."""
        self._place, self._since = (step, doing), time.monotonic()

    def explain(self, error: BaseException) -> LostRankError:
        """What to raise in place of ``error``, which a collective raised: who left by an error, who is silent, or where everybody is."""
        watch, end = Watch(self._folder, self._others), time.monotonic() + 3 * self._every
        step = self._place[0]
        while time.monotonic() < end:
            time.sleep(self._every / 4)
            watch.look()
            if left := watch.left():
                return left
        lost = watch.silent(2 * self._every)
        if lost:
            return LostRankError(f"step {step}: {'; '.join(lost)}: no sign of life; {WAY_OUT}")
        if "imed out" in str(error) or "imeout" in str(error):
            return LostRankError(f"step {step}: a rank did not come within {self._timeout:g} s; {'; '.join(watch.everybody())}; {WAY_OUT}")
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return LostRankError(f"step {step}: the ranks lost each other ({reason}); {'; '.join(watch.everybody())}; {WAY_OUT}")

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        explained = self.explain(error) if error is not None and _of_communication(error) else None
        self._over.set()
        self._thread.join()
        if isinstance(error, Exception) and explained is None:  # its own, not what another rank's end did to it
            self._error = {"error": str(error) or type(error).__name__, "exit_code": getattr(error, "exit_code", 1)}
            self._beat()
        if explained is not None:
            raise explained from None

    def _live(self) -> None:
        """The thread: beat; look around when this rank does not get on; end with the launcher, which nobody outlives."""
        watch: Watch | None = None
        while not self._over.wait(self._every):
            self._beat()
            if self._launcher and os.getppid() != self._launcher:
                self._end(f"rank {self._mine.rank} on {self._mine.host}: its launcher died, so it ends; {WAY_OUT}")
            if time.monotonic() - self._since < self._timeout / 4:
                watch = None
                continue
            watch = watch or Watch(self._folder, self._others)
            watch.look()
            if (left := watch.left()) and not self._over.is_set():
                self._end(str(left), left.exit_code)
            lost = watch.silent(self._timeout / 2)  # with the quarter before and the beats between: within the time-out
            if lost and not self._over.is_set():
                step, doing = self._place
                self._end(f"step {step}: {'; '.join(lost)}: no sign of life; rank {self._mine.rank} waited for it ({doing}); {WAY_OUT}")

    def _end(self, message: str, code: int = UNAVAILABLE) -> None:
        self._ending(code)
        end(self._completed(message), code)

    def _beat(self) -> None:
        self._beats += 1
        step, doing = self._place
        about = {"host": self._mine.host, "pid": os.getpid(), "beat": self._beats, "step": step, "doing": doing, **self._error}
        path = beat_path(self._folder, self._mine.rank)
        try:
            try:
                write_atomic(path, json.dumps(about) + "\n")
            except OSError:
                os.utime(path)  # a full disk has room for a date
        except OSError as error:  # to the others this looks like a dead rank, so the reason must be told
            if not self._told_trouble:
                print(f"foldline: rank {self._mine.rank} on {self._mine.host} cannot show that it lives: {error}", file=sys.stderr)
            self._told_trouble = True


class Watch:
    """What one rank has seen of others' files since it began to look."""

    def __init__(self, folder: Path, others: Sequence[RankInfo]) -> None:
        self._folder = folder
        self._hosts = {place.rank: place.host for place in others}
        self._seen = {rank: (self._read(rank), time.monotonic()) for rank in self._hosts}

    def look(self) -> None:
        """Read every file again."""
        for rank, (before, _) in self._seen.items():
            now = self._read(rank)
            if now != before:
                self._seen[rank] = (now, time.monotonic())

    def silent(self, seconds: float) -> list[str]:
        """Ranks that have not changed for ``seconds``, each with host, process and where it was last."""
        now = time.monotonic()
        return [self._tell(rank) for rank, (_, since) in self._seen.items() if now - since >= seconds]

    def left(self) -> LostRankError | None:
        """The error of a rank that left by one."""
        for rank, ((text, _), _) in self._seen.items():
            try:
                about = json.loads(text)
                return LostRankError(f"rank {rank} on {self._hosts[rank]} ended: {about['error']}", int(about["exit_code"]))
            except (ValueError, KeyError, TypeError):
                continue
        return None

    def everybody(self) -> list[str]:
        """Where the ranks are."""
        return [self._tell(rank) for rank in self._seen]

    def _tell(self, rank: int) -> str:
        try:
            about = json.loads(self._seen[rank][0][0])
            return f"rank {rank} on {self._hosts[rank]} (process {about['pid']}, last in step {about['step']}: {about['doing']})"
        except (ValueError, KeyError, TypeError):
            return f"rank {rank} on {self._hosts[rank]}"

    def _read(self, rank: int) -> tuple[str, int]:
        """The file's text and date."""
        path = beat_path(self._folder, rank)
        try:
            return path.read_text(), path.stat().st_mtime_ns
        except OSError:
            return "", 0


def beat_path(folder: Path, rank: int) -> Path:
    """The file that ``rank`` keeps rewriting."""
    return folder / f"rank_{rank:05d}.json"


def _of_communication(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or any(library in str(error) for library in ("gloo", "NCCL"))


def end(message: str, code: int) -> None:
    """End the process, its threads, and whatever of it waits inside a collective, which nothing else interrupts."""
    print(f"foldline: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)
