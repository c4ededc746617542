"""The folder of one crash: who makes it, what lies in it besides the ranks' own files, how many stay."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from .provenance import PACKAGE, git_state
from .rundir import RunDir, environment

KEPT = 5  # bundles; older ones go
LINES = 50  # of the journal
QUESTION = "question.txt"
OPEN = "open"  # in RUN/crash: the folder of the present incident
HIDDEN = "(hidden)"
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH|COOKIE|PRIVATE|SIGNATURE", re.IGNORECASE)
IN_URL = re.compile(r"(?<=://)[^/@\s]+@")  # user:password@


@dataclass(frozen=True)
class IncidentFolder:
    """``mine``: this process made the folder; otherwise another rank did, and this one adds its own file."""

    run: RunDir
    folder: Path
    mine: bool

    @classmethod
    def open(cls, run: RunDir, who: str) -> IncidentFolder:
        """Join the present incident, or begin one. One of many ranks begins it, even where they come at the same moment."""
        run.crash.mkdir(parents=True, exist_ok=True)
        folder = run.crash / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}_{who}"
        try:
            with os.fdopen(os.open(run.crash / OPEN, os.O_CREAT | os.O_EXCL | os.O_WRONLY), "w") as file:
                file.write(folder.name)
        except FileExistsError:
            end = time.monotonic() + 1.0
            while not (name := (run.crash / OPEN).read_text()) and time.monotonic() < end:
                time.sleep(0.01)  # made, not yet written
            (run.crash / (name or folder.name)).mkdir(exist_ok=True)
            return cls(run, run.crash / (name or folder.name), mine=False)
        folder.mkdir(exist_ok=True)
        return cls(run, folder, mine=True)

    def write_about(self, config: str) -> None:
        """The text ``config``, environment and versions of this process, the journal's end; then the oldest bundles go."""
        (self.folder / "config.json").write_text(IN_URL.sub(f"{HIDDEN}@", config))
        about: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "host": socket.gethostname(),
            "command": [IN_URL.sub(f"{HIDDEN}@", word) for word in sys.argv],
            "git": git_state(PACKAGE),
            "versions": environment() | {"all": dict(sorted((d.name, d.version) for d in distributions()))},
            "variables": without_secrets(os.environ),
        }
        (self.folder / "environment.json").write_text(json.dumps(about, indent=2) + "\n")
        if self.run.journal.exists():
            (self.folder / "journal.jsonl").write_text("".join(_last_lines(self.run.journal)))
        for old in sorted(path for path in self.run.crash.glob("*T*_*") if path.is_dir())[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def write_ranks(self) -> None:
        """Where every rank was last, and what the ranks that died by a signal of their own (SIGSEGV, SIGABRT) have left."""
        lines = [text for path in sorted(self.run.ranks.glob("rank_*.json")) if (text := _text(path).strip())]
        (self.folder / "ranks.jsonl").write_text("\n".join(lines) + "\n")
        for path in sorted(self.run.ranks.glob("fatal_*.txt")):
            if path.stat().st_size:
                shutil.copyfile(path, self.folder / path.name)


def ask(run: RunDir, folder: Path) -> None:
    """Ask all ranks to write into ``folder``. In place: a file that was there before is seen at once on network file systems."""
    (run.ranks / QUESTION).write_text(folder.name)


def asked(run: RunDir) -> Path | None:
    """The folder that somebody asks to write into."""
    name = _text(run.ranks / QUESTION)
    return run.crash / name if name else None


def forget(run: RunDir) -> None:
    """A new start of the run: what happens from now on is another incident."""
    run.crash.mkdir(parents=True, exist_ok=True)
    (run.crash / OPEN).unlink(missing_ok=True)
    run.ranks.mkdir(parents=True, exist_ok=True)
    (run.ranks / QUESTION).write_text("")


def without_secrets(variables: Mapping[str, str]) -> dict[str, str]:
    """``variables`` by name, those that look like secrets hidden, and passwords within addresses."""
    return {name: HIDDEN if SECRET.search(name) else IN_URL.sub(f"{HIDDEN}@", value) for name, value in sorted(variables.items())}


def _last_lines(path: Path) -> list[str]:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LINES * 4096))
        return file.read().decode(errors="replace").splitlines(keepends=True)[-LINES:]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
