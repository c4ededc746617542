"""What each result came from, written after it; a later run reads it to see what need not be searched again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...whole_file import write_atomic, write_json
from .plan import Search
from .queries import Query

NAME = "provenance.json"
_FORMAT = 1
_WORDS = {"tool": "another tool", "version": "another version of {tool}", "parameters": "other parameters", "query": "another sequence"}


class Provenance:
    """The provenance file of one query's folder; ``complete`` once every wanted search has its entry."""

    def __init__(self, folder: Path, query: Query, wanted: Sequence[Search]) -> None:
        self._folder, self._query, self._wanted = folder, query, tuple(wanted)
        self._entries = _read(folder / NAME)

    def reason(self, search: Search) -> str:
        """'' where the result is there and what it depends on is unchanged; else why it must be searched."""
        entry = self._entries.get(search.database.name)
        if entry is None or entry.get("output", {}).get("file") != search.output:
            return "not searched yet"
        wanted = search.record(self._query.digest)
        for key, value in wanted.items():
            if entry.get(key) != value:
                return _WORDS.get(key, f"another {key}").format(tool=search.tool)
        try:
            data = (self._folder / search.output).read_bytes()
        except OSError:
            return f"{search.output} is missing"
        return "" if entry["output"]["sha256"] == hashlib.sha256(data).hexdigest() else f"{search.output} was changed"

    def rows(self, search: Search) -> int:
        """The count that was recorded with a result."""
        return int(self._entries[search.database.name]["rows"])

    def add(self, search: Search, data: bytes, rows: int, seconds: float) -> None:
        """Write a result, then its entry; a kill in between leaves a result that no entry vouches for, which is searched again."""
        write_atomic(self._folder / search.output, data)
        output = {"file": search.output, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self._entries[search.database.name] = {
            **search.record(self._query.digest),
            "files": list(search.database.identity.files),
            "output": output,
            "rows": rows,
            "seconds": round(seconds, 3),
        }
        self._write()

    def _write(self) -> None:
        about = {"name": self._query.name, "header": self._query.header, "length": len(self._query.sequence), "sha256": self._query.digest}
        complete = not any(self.reason(search) for search in self._wanted)
        write_json(
            self._folder / NAME,
            {"format": _FORMAT, "query": about, "complete": complete, "searches": self._entries},
        )


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Entries by database. A file of another format or cut short vouches for nothing."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(data, dict) or data.get("format") != _FORMAT or not isinstance(data.get("searches"), dict):
        return {}
    return dict(data["searches"])
