"""What a worker does: one unit -> part files and one outcome file, which appears last and only whole."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from ...errors import FoldlineError
from ..parts import PartWriter
from ..types import ChainRecord
from .entry import Entry
from .outcome import Outcome, quarantined
from .plan import Unit
from .reader import Options, Read, Reader


def outcome_file(folder: Path, key: str) -> Path:
    """Where the outcomes of a finished unit lie."""
    return folder / f"{key}.json"


def marker_file(folder: Path, key: str) -> Path:
    """Where a unit in the making names its process and the entry that it reads."""
    return folder / f"{key}.at"


def run_unit(folder: Path, unit: Unit, options: Options, careful: bool) -> str:
    """Make ``unit``'s files in ``folder``; the name of its last entry. With ``careful`` entries are read in a process of their own, so
    that one which kills its reader costs itself alone."""
    marker = marker_file(folder, unit.key)
    outcomes: list[Outcome] = []
    with ExitStack() as stack:
        source: _InThisProcess | _InAnother = _InAnother(options) if careful else _InThisProcess(options)
        stack.enter_context(source)
        parts = stack.enter_context(_Parts(folder, unit.key))
        for entry in unit.entries:
            replace_text(marker, f"{source.pid} {entry.name}")
            for outcome, record in source.read(entry):
                try:
                    if record is not None:
                        parts.add(record)
                    outcomes.append(outcome)
                except FoldlineError as error:
                    outcomes.append(quarantined(outcome.name, str(error)))
    result = {
        "entries": {entry.name: digest for entry, digest in zip(unit.entries, unit.digests, strict=True)},
        "parts": {path.name: path.stat().st_size for path in parts.paths},
        "outcomes": [outcome.to_json() for outcome in outcomes],
    }
    replace_text(outcome_file(folder, unit.key), json.dumps(result))
    marker.unlink(missing_ok=True)
    return unit.entries[-1].name


def read_result(folder: Path, key: str) -> dict[str, Any] | None:
    """What ``run_unit`` wrote, None when the unit is not finished or its parts are gone."""
    try:
        result = dict(json.loads(outcome_file(folder, key).read_text()))
        whole = all((folder / name).stat().st_size == size for name, size in result["parts"].items())
    except (OSError, ValueError, KeyError):
        return None
    return result if whole else None


class _Parts:
    """The part files of one unit: a new one is begun when one is full."""

    def __init__(self, folder: Path, key: str) -> None:
        self.paths: list[Path] = []
        self._folder, self._key = folder, key
        self._stack = ExitStack()
        self._writer: PartWriter

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
        if self.paths and len(self._writer) == 0:  # its only records broke a rule
            self.paths.pop().unlink(missing_ok=True)

    def add(self, record: ChainRecord) -> None:
        """Append a record; FoldlineError when it breaks a rule of the store."""
        if not self.paths or self._writer.full:
            self._stack.close()
            path = self._folder / f"{self._key}-{len(self.paths)}.zip"
            path.unlink(missing_ok=True)
            self._writer = self._stack.enter_context(PartWriter(path))
            self.paths.append(path)
        self._writer.add(record)


class _InThisProcess:
    """Reads entries here."""

    def __init__(self, options: Options) -> None:
        self._reader, self.pid = Reader(options), os.getpid()

    def __enter__(self) -> _InThisProcess:
        return self

    def __exit__(self, *error: Any) -> None:
        return None

    def read(self, entry: Entry) -> Iterator[Read]:
        """The entry's records and outcomes."""
        return self._reader.read(entry)


class _InAnother:
    """Reads entries in a spawned process; one that dies is replaced, and the entry it was reading is quarantined."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._process, self._pipe = self._start()

    @property
    def pid(self) -> int:
        """The process that reads."""
        return self._process.pid or 0

    def __enter__(self) -> _InAnother:
        return self

    def __exit__(self, *error: Any) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.join()

    def read(self, entry: Entry) -> Iterator[Read]:
        """The entry's records and outcomes, all at once."""
        try:
            self._pipe.send(entry)
            yield from self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode or 0
            how = f"signal {-code}, as the system kills for memory" if code < 0 else f"exit code {code}"
            self._process, self._pipe = self._start()
            reason = f"the process that read it died ({how}); look at {entry.structure.name} and its alignments, or give it more memory"
            for name in [entry.name] if entry.rest else [wanted.chain_id for wanted in entry.wanted]:
                yield quarantined(name, reason), None

    def _start(self) -> tuple[SpawnProcess, Connection]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._options), daemon=True)
        process.start()
        theirs.close()
        return process, ours


def _serve(pipe: Connection, options: Options) -> None:
    """Read entries from ``pipe`` and send back what they give until it is closed."""
    reader = Reader(options)
    try:
        while True:
            pipe.send(list(reader.read(pipe.recv())))
    except (EOFError, ConnectionError):
        return


def replace_text(path: Path, text: str) -> None:
    """Write ``path`` whole or not at all."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)
