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
    """Writer of one journal; every line is in the file when ``append`` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a")
        if not _ends_with_newline(path):  # a process died inside a line: end it, so that the next record starts its own
            self._file.write("\n")

    def append(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        """Write one record. A value that is not finite becomes null, which JSON can hold."""
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"kind": kind, "step": step, "time": round(time.time(), 3), "metrics": values}) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Force the journal to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.sync()
        self._file.close()


def read_after(path: Path, offset: int, limit: int = sys.maxsize) -> Unsent:
    """Records of at most ``limit`` complete lines from byte ``offset`` on; lines that are not records (torn by a crash) are passed over."""
    with path.open("rb") as file:
        file.seek(offset)
        lines = [line for line in islice(file, limit) if line.endswith(b"\n")]
    records = [record for line in lines if (record := _parse(line)) is not None]
    return Unsent(records, offset + sum(map(len, lines)))


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
