"""Following a training from outside: whether it still goes on, by what it leaves in its directory."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from .rundir import RunDir


class RunWatch:
    """A run seen from a side job; ``silence`` is how many seconds a run may write nothing before it counts as dead."""

    def __init__(self, run: RunDir, silence: float) -> None:
        self._run = run
        self._silence = silence
        self._seen: tuple[int, ...] = ()
        self._since = time.monotonic()

    def ended(self) -> str:
        """Why nothing more is to be expected, as a line to print; "" while the run goes on."""
        told = self._state()
        state = told.get("state", "running")
        if state != "running":
            return f"the run {'failed' if state == 'failed' else f'is {state}'}; all its checkpoints are validated"
        if told.get("host") == socket.gethostname() and not _alive(told.get("pid", 0)):
            return "the run's process is gone; all its checkpoints are validated"
        size = tuple(path.stat().st_size for path in (self._run.journal, self._run.state) if path.exists())
        if size != self._seen:
            self._seen, self._since = size, time.monotonic()
        if time.monotonic() - self._since > self._silence:
            return f"the run has written nothing for {self._silence:.0f} s and counts as dead; raise --silence if its steps take longer"
        return ""

    def _state(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._run.state.read_text()))
        except (OSError, ValueError):
            return {}


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
