"""``metrics.jsonl``: the append-only record of a run, and the truth that every tracker is fed from."""

from __future__ import annotations

import heapq
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True)
class Record:
    """One line. ``kind`` is "train", "validate", "imported", "system" or "resume"; ``time`` is seconds since the epoch."""

    kind: str
    step: int
    time: float
    metrics: dict[str, float]


class Unsent(NamedTuple):
    """Complete lines after a byte offset, and the offset behind them."""

    records: list[Record]
    end: int


class Journal:
    """Writer of one journal. A line is in the file when ``append`` returns, or waits in memory for a disk that has no room: ``trouble``
    then says why, and the next ``append`` or ``sync`` writes it first.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.trouble = ""
        self._file = path.open("ab", buffering=0)
        # A process that died inside a line left it open: end it, so that the next record starts its own.
        self._waiting = b"" if _ends_with_newline(path) else b"\n"

    def append(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        """Write one record. A value that is not finite becomes null, which JSON can hold."""
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        record = {"kind": kind, "step": step, "time": round(time.time(), 3), "metrics": values}
        self._waiting += json.dumps(record).encode() + b"\n"
        self._write()

    def sync(self) -> str:
        """Force the journal to the disk; why not all of it is there, or ""."""
        self._write()
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self.trouble = self.trouble or str(error)
        return self.trouble

    def close(self) -> str:
        """The last ``sync``, with its answer."""
        trouble = self.sync()
        self._file.close()
        return trouble

    def _write(self) -> None:
        """Write what waits. What a full disk took of a line stays, and the rest of it follows: lines stay whole."""
        self.trouble = ""
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            self.trouble = str(error)


def read_after(path: Path, offset: int, limit: int = sys.maxsize, until: int = sys.maxsize) -> Unsent:
    """Records of at most ``limit`` complete lines between the bytes ``offset`` and ``until``; lines that are not records (torn by a crash)
    are passed over.

    Where ``offset`` is not the end of a line the file is not the one it was taken in (a host's crash cost it its end): all of it is read.
    """
    records, end = [], offset if follows_a_line(path, offset) else 0
    with path.open("rb") as file:
        file.seek(end)
        for line in islice(file, limit):
            if not line.endswith(b"\n") or end + len(line) > until:
                break
            end += len(line)
            if (record := _parse(line)) is not None:
                records.append(record)
    return Unsent(records, end)


def follows_a_line(path: Path, offset: int) -> bool:
    """Whether a line of the file ends just before byte ``offset``, or the file begins there."""
    with path.open("rb") as file:
        file.seek(max(0, offset - 1))
        return not offset or file.read(1) == b"\n"


def side_journal(path: Path) -> Path:
    """Where a side job (``foldline validate``) writes beside the journal ``path``: each file has one writer, readers merge them."""
    return path.with_name(f"{path.stem}.validation{path.suffix}")


def read_journal(path: Path) -> list[Record]:
    """The run's history as it counts, with the side job's: a "resume" record at step s voids what was recorded beyond s before it."""
    history: list[Record] = []
    records = [read_after(each, 0).records for each in (path, side_journal(path)) if each.exists()]
    for record in heapq.merge(*records, key=lambda record: record.time):
        if record.kind == "resume":
            history = [earlier for earlier in history if earlier.step <= record.step]
        else:
            history.append(record)
    return history


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _parse(line: bytes) -> Record | None:
    try:
        data = json.loads(line)
        metrics = {str(name): math.nan if value is None else float(value) for name, value in data["metrics"].items()}
        return Record(str(data["kind"]), int(data["step"]), float(data["time"]), metrics)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
