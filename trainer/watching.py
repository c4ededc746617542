"""Following a training from outside: whether it still goes on, by what it leaves in its directory."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from .run_state import FAILED, LOST, RUNNING, state_of
from .rundir import RunDir

SETTLED = 60.0  # seconds for which an end must have been told before it is believed, where the run may be about to go on


class RunWatch:
    """A run seen from a side job; ``silence`` is how many seconds a run may write nothing before it counts as dead.

    An end that was told before the watch began may be that of the start before, and after a lost rank a restart may follow: these count
    once nothing has been told for ``SETTLED`` seconds, or for ``silence`` where that is shorter.
    """

    def __init__(self, run: RunDir, silence: float) -> None:
        self._run = run
        self._silence = silence
        self._seen: tuple[int, ...] = ()
        self._since = self._began = time.monotonic()
        self._lived = False

    def ended(self) -> str:
        """Why nothing more is to be expected, as a line to print; "" while the run goes on."""
        state = state_of(self._run.state) or RUNNING
        if state == RUNNING:
            self._lived, self._began = True, time.monotonic()
        elif (self._lived and state != LOST) or time.monotonic() - self._began > min(SETTLED, self._silence):
            return f"the run {'failed' if state == FAILED else f'is {state}'}; all its checkpoints are validated"
        size = tuple(path.stat().st_size for path in (self._run.journal, self._run.state) if path.exists())
        if size != self._seen:
            self._seen, self._since = size, time.monotonic()
        if time.monotonic() - self._since > self._silence:
            return f"the run has written nothing for {self._silence:.0f} s and counts as dead; raise --silence if its steps take longer"
        return ""


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
