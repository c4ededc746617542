"""The jobs that this user has submitted: ``jobs.json`` in the state directory, newest last."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ...errors import FoldlineError
from ...settings import from_dict


@dataclass(frozen=True)
class Record:
    """A submitted job. ``ids`` are the scheduler's: several for a chain or for an array and its merge."""

    ids: tuple[str, ...]
    scheduler: str
    name: str
    folder: str
    command: tuple[str, ...]
    submitted: str  # UTC
    tasks: int = 0  # of an array
    kind: str = "job"  # Kubernetes
    namespace: str = ""


def state_file() -> Path:
    """jobs.json: below FOLDLINE_STATE, else below $XDG_STATE_HOME/foldline, else below ~/.local/state/foldline."""
    if os.environ.get("FOLDLINE_STATE"):
        return Path(os.environ["FOLDLINE_STATE"]) / "jobs.json"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "foldline" / "jobs.json"


def prepare() -> None:
    """Raise FoldlineError where the list cannot be read or written."""
    _change(lambda records: records)


def remember(record: Record) -> None:
    """Add ``record``; several processes may do so at once."""
    _change(lambda records: [*records, record])


def records() -> list[Record]:
    """All jobs, oldest first. Raises FoldlineError for a file that cannot be read."""
    path = state_file()
    if not path.exists():
        return []
    try:
        return [from_dict(Record, dict(entry), str(path)) for entry in json.loads(path.read_text())]
    except (OSError, TypeError, ValueError) as error:
        raise FoldlineError(f"{path} is not readable: {error}; move it away to start a new list") from None


def find(wanted: str) -> Record:
    """The newest job with this id or name. Raises FoldlineError where there is none."""
    for record in reversed(records()):
        if wanted in record.ids or wanted == record.name or wanted in [number.split(".")[0] for number in record.ids]:
            return record
    raise FoldlineError(f"no job {wanted!r} among those in {state_file()}; `foldline jobs` lists them")


def _change(change: Callable[[list[Record]], list[Record]]) -> None:
    path = state_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(".jobs.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            text = json.dumps([asdict(record) for record in change(records())], indent=1) + "\n"
            partial = path.with_name("jobs.json.partial")
            partial.write_text(text)
            os.replace(partial, path)
    except OSError as error:
        raise FoldlineError(f"the list of jobs cannot be written: {error}; give a folder of yours by FOLDLINE_STATE") from None
