"""``RUN/state.json``: whether a run goes on, as its processes tell it and as what dead ones left shows it. Loads nothing heavy.

running; finished: all steps, or no more gain; stopped: by a signal, after a checkpoint; failed: by an error that has to be repaired;
lost: a rank, a host or the store went away, or every process was killed. All but finished go on with --resume.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import NamedTuple

from ..whole_file import write_atomic

RUNNING, FINISHED, STOPPED, FAILED, LOST = "running", "finished", "stopped", "failed", "lost"


class Told(NamedTuple):
    """What the file says; ``time`` in seconds since the epoch."""

    state: str
    time: float
    host: str
    pid: int


def tell(path: Path, state: str) -> None:
    """Replace the file at ``path``; a disk that does not take it is printed and stops nothing."""
    about = Told(state, round(time.time(), 3), socket.gethostname(), os.getpid())
    try:
        write_atomic(path, json.dumps(about._asdict()) + "\n")
    except OSError as error:
        print(f"foldline: {path} cannot say that the run is {state}: {error}", file=sys.stderr)


def told(path: Path) -> Told | None:
    """What the file at ``path`` says, None where there is none to be read."""
    try:
        data = json.loads(path.read_text())
        return Told(str(data["state"]), float(data.get("time", 0.0)), str(data.get("host", "")), int(data.get("pid", 0)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def state_of(path: Path) -> str:
    """The state that is true as far as can be seen from this host: a run that is said to go on, by a process of this host that is gone,
    is lost. "" where nothing was told.
    """
    now = told(path)
    if now is None:
        return ""
    return LOST if now.state == RUNNING and now.host == socket.gethostname() and not alive(now.pid) else now.state


def settle(path: Path, code: int) -> None:
    """A launcher saw the job end with exit ``code``: correct a file whose writer was killed before it could."""
    now = told(path)
    if now is not None and now.state == RUNNING:
        tell(path, {0: FINISHED, 2: FAILED, 75: STOPPED}.get(code, LOST))


def alive(process: int) -> bool:
    """Whether a process of this host lives."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
