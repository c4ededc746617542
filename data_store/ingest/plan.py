"""The plan of an ingest: entries in units, each made by one process into part files of its own. A pure function of the source's files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import __version__
from ..schema import SCHEMA_VERSION
from .entry import Entry

UNITS, SMALLEST, LARGEST = 64, 8, 1024


@dataclass(frozen=True)
class Unit:
    """Some entries, and the key that names their results: it changes with any of their files and with the settings."""

    key: str
    entries: tuple[Entry, ...]
    digests: tuple[str, ...]  # one per entry


def make_units(entries: Sequence[Entry], settings: dict[str, Any]) -> tuple[Unit, ...]:
    """Sorted ``entries`` cut into units of clamp(n / 64, 8, 1024). ``settings`` is what else the results depend on, in JSON's types."""
    entries = sorted(entries, key=lambda entry: entry.name)
    size = unit_size(len(entries))
    units = []
    for start in range(0, len(entries), size):
        chunk = tuple(entries[start : start + size])
        digests = tuple(_digest(entry) for entry in chunk)
        text = json.dumps([__version__, SCHEMA_VERSION, settings, digests], sort_keys=True)
        units.append(Unit(hashlib.sha256(text.encode()).hexdigest()[:24], chunk, digests))
    return tuple(units)


def unit_size(n_entries: int) -> int:
    """Entries per unit: enough units to share out, few enough files."""
    return min(max(-(-n_entries // UNITS), SMALLEST), LARGEST)


def _digest(entry: Entry) -> str:
    """Names, sizes and times of the entry's files, and what a table says of it."""
    files = [(str(path), *_state(path)) for path in entry.files()]
    text = json.dumps([dataclasses.asdict(entry), files], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _state(path: Path) -> tuple[int, int]:
    """(bytes, time of the last change); zeros for a file that is gone."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
