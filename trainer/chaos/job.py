"""One start of the training as a user or a scheduler makes it, watched from outside: by its journal, its files and its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from ...cluster.launch import clear_session
from ..journal import read_after
from ..rundir import RunDir

MARK = "FOLDLINE_CHAOS"  # in the environment of every process of the job, so that none is overlooked


class Job:
    """``foldline ARGUMENTS`` in a session of its own, its output in ``log``. ``mark`` is inherited by all that it starts."""

    def __init__(self, arguments: Sequence[str], log: Path, run: RunDir, mark: str, environment: Mapping[str, str]) -> None:
        self.log = log
        self.step: int | None = None  # the newest that is done; a resumed start begins with the step that it goes on from
        self.resumed: int | None = None  # the step gone on from, 0 once a start from the beginning has done one
        self.first_step_after: float | None = None  # seconds from the start to the first step that was done
        self._run = run
        self._mark = mark
        self._offset = run.journal.stat().st_size if run.journal.exists() else 0
        self._begin = time.monotonic()
        self.moved = self._begin  # when it last got on
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "foldline.cli", *arguments]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, start_new_session=True, env={**os.environ, **environment, MARK: mark}
            )

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._begin

    @property
    def code(self) -> int | None:
        """As a shell gives it, None while it runs."""
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return next(self._run.checkpoints.glob(".partial_*"), None) is not None

    def look(self) -> None:
        """Read what the journal has got since."""
        if not self._run.journal.exists():
            return
        found = read_after(self._run.journal, self._offset)
        self._offset = found.end
        for record in found.records:
            self.moved = time.monotonic()
            if record.kind == "resume":
                self.resumed = self.step = record.step
            elif record.kind == "train":
                self.step = record.step
                self.resumed = self.resumed or 0
                self.first_step_after = self.first_step_after or self.seconds

    def ranks(self) -> dict[int, int]:
        """Rank -> process id, of the ranks that have come as far as Python."""
        found: dict[int, int] = {}
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.Error:
            return found
        for process in family:
            with suppress(psutil.Error):
                rank = process.environ().get("OMPI_COMM_WORLD_RANK")
                if rank is not None and "foldline.cli" in process.cmdline():
                    found[int(rank)] = process.pid
        return found

    def kill_all(self) -> None:
        """SIGKILL to launcher, ranks and their helpers at once, as when the power goes."""
        killed = bearers(self._mark)
        for pid in killed:
            send(pid, signal.SIGKILL)
        self.process.wait()
        while bearers(self._mark):
            time.sleep(0.01)
        for pid in killed:
            clear_session(pid)


def bearers(mark: str) -> list[int]:
    """Processes that carry ``mark``: the whole family of the jobs that were started with it, whoever their parents are now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def describe(pid: int) -> str:
    """A process by number and command, "" when it is gone."""
    try:
        process = psutil.Process(pid)
        return f"{pid} ({process.status()}): {' '.join(process.cmdline())[:100]}"
    except psutil.Error:
        return ""


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
