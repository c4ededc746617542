"""Tables of a run in the JSON form of MLflow's tables: {"columns": [...], "data": [[...], ...]}."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..whole_file import write_atomic


def append_table(path: Path, step: int, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Add one row per chain of ``rows`` for ``step``, in place of rows of this or a later step, which a resumed run gives anew."""
    columns, data = read_table(path)
    known = [dict(zip(columns, row, strict=True)) for row in data]
    known = [row for row in known if row["step"] < step]
    known += [{"step": step, "chain": chain} | dict(values) for chain, values in rows.items()]
    names = list(dict.fromkeys(name for row in known for name in row))
    table = {"columns": names, "data": [[_plain(row.get(name)) for name in names] for row in known]}
    write_atomic(path, json.dumps(table, allow_nan=False) + "\n")


def read_table(path: Path) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows; none where the file is absent or damaged."""
    try:
        table = json.loads(path.read_text())
        return list(table["columns"]), [list(row) for row in table["data"]]
    except (OSError, ValueError, KeyError, TypeError):
        return [], []


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
