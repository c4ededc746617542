"""``RUN/tracking.json``: what each MLflow server has of a run. One process sends at a time; the next goes on from there."""

from __future__ import annotations

import fcntl
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...whole_file import write_atomic


@dataclass
class Sent:
    """What one server has. ``journals``: file -> bytes sent; ``files``: artefact -> [mtime ns, size]; ``state``: as last told."""

    run_id: str = ""
    journals: dict[str, int] = field(default_factory=dict)
    files: dict[str, list[int]] = field(default_factory=dict)
    state: str = ""
    version: str = ""  # registry.py's mark of the model version made of this run


@dataclass
class TrackingState:
    """``uid`` names the run at every server, so that a run created there by a call whose answer was lost is found again."""

    path: Path
    uid: str
    servers: dict[str, Sent]

    @classmethod
    def read(cls, path: Path) -> TrackingState:
        """The file's content; a fresh state where it is absent or damaged."""
        try:
            data = json.loads(path.read_text())
            return cls(path, str(data["uid"]), {uri: Sent(**sent) for uri, sent in data["servers"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(path, uuid.uuid4().hex, {})

    def save(self) -> None:
        """Replace the file."""
        data: dict[str, Any] = {"uid": self.uid, "servers": {uri: asdict(sent) for uri, sent in self.servers.items()}}
        write_atomic(self.path, json.dumps(data, indent=1) + "\n")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``path`` for this process; the system lets go of it when the process dies."""
    with path.open("w") as file:
        # On a file system without locks two senders may send some lines twice; MLflow's database keeps them once.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_json(path: Path) -> dict[str, Any]:
    """A file's object, {} where it is absent or damaged."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}
