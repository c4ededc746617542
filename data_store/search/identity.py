"""Which database it was: sizes and hashes of its files, computed once per version and kept beside the results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...whole_file import write_json

WHOLE = 1 << 30  # bytes; files below are hashed in full, larger ones by their two ends
_END = 1 << 20


@dataclass(frozen=True)
class Identity:
    """``digest`` depends on the files' endings, sizes and content, not on where they lie or when they were written.

    ``files``: per file its path, size in bytes, time of change (ns), sha256 of its first and last MiB, and of the whole below 1 GiB.
    """

    digest: str
    files: tuple[dict[str, Any], ...]


def identify(files: Sequence[Path], cache: Path) -> Identity:
    """The identity of a database. Hashes of files whose size and time have not changed come from the JSON file ``cache``."""
    known = _read(cache)
    entries = [_entry(path, known) for path in files]
    fresh = {entry["path"]: entry for entry in entries}
    if any(known.get(path) != entry for path, entry in fresh.items()):
        write_json(cache, {**_read(cache), **fresh})
    names = [Path(entry["path"]).name for entry in entries]
    stem = len(min(names, key=len)) if len(names) > 1 else len(names[0])
    told = [[name[stem:], entry["bytes"], entry["ends"], entry["sha256"]] for name, entry in zip(names, entries, strict=True)]
    return Identity(hashlib.sha256(json.dumps(told).encode()).hexdigest(), tuple(entries))


def _entry(path: Path, known: dict[str, Any]) -> dict[str, Any]:
    state = path.stat()
    entry = known.get(str(path), {})
    if entry.get("bytes") == state.st_size and entry.get("mtime_ns") == state.st_mtime_ns:
        return dict(entry)
    with path.open("rb") as file:
        ends = hashlib.sha256(file.read(_END))
        file.seek(max(0, state.st_size - _END))
        ends.update(file.read(_END))
        file.seek(0)
        whole = hashlib.file_digest(file, "sha256").hexdigest() if state.st_size < WHOLE else None
    return {"path": str(path), "bytes": state.st_size, "mtime_ns": state.st_mtime_ns, "ends": ends.hexdigest(), "sha256": whole}


def _read(cache: Path) -> dict[str, Any]:
    """What was kept; a cache that another version wrote or that was damaged is simply computed anew."""
    try:
        data = json.loads(cache.read_bytes())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
