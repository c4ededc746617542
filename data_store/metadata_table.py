"""``metadata.tsv``: what the user knows of chains and their files do not say (clusters, weights, dates of headerless files)."""

from __future__ import annotations

import csv
import dataclasses
import math
import re
from pathlib import Path
from typing import Any, get_type_hints

from ..errors import FoldlineError
from ..settings import nearest
from .types import ChainMetadata

Overrides = dict[str, str | float | int]

_ID = "id"
# What a table may say of a chain: every field but its name.
METADATA_FIELDS: dict[str, type] = {name: kind for name, kind in get_type_hints(ChainMetadata).items() if name != "chain_id"}


def read_metadata_table(path: Path) -> dict[str, Overrides]:
    """Chain id -> the ``ChainMetadata`` fields that its row fills in; {} when there is no file.

    Tab-separated, one header line: ``id`` and any fields of ``ChainMetadata``; an empty cell leaves what the structure file says.
    Raises FoldlineError for an unknown column, a wrong value, or an id given twice.
    """
    if not path.exists():
        return {}
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError) as error:
        raise FoldlineError(f"{path} cannot be read ({error}); give tab-separated UTF-8 text") from None
    columns = [column for column in (rows[0] if rows else {}) if column is not None]
    if rows and _ID not in columns:
        raise FoldlineError(f"{path} has no column '{_ID}'; its first line must name tab-separated columns, one of them '{_ID}'")
    for column in columns:
        if column != _ID and column not in METADATA_FIELDS:
            raise FoldlineError(f"{path}: unknown column '{column}'; {nearest(column, METADATA_FIELDS)}")
    table: dict[str, Overrides] = {}
    for line, row in enumerate(rows, start=2):
        if None in row:
            raise FoldlineError(f"{path} line {line} has more cells than the header has columns")
        if row[_ID] in table:
            raise FoldlineError(f"{path} line {line}: id '{row[_ID]}' is given twice; keep one row")
        cells = {name: text.strip() for name, text in row.items() if name != _ID and text and text.strip()}
        table[row[_ID]] = {name: metadata_value(f"{path} line {line}: {name}", name, text) for name, text in cells.items()}
    return table


def with_overrides(metadata: ChainMetadata, overrides: Overrides) -> ChainMetadata:
    """``metadata`` with the fields that a row of the table fills in."""
    fields: dict[str, Any] = dict(overrides)
    return dataclasses.replace(metadata, **fields)


def metadata_value(where: str, name: str, text: str) -> str | float | int:
    """A cell of column ``name`` as the field's type. FoldlineError, naming ``where``, when it is none."""
    kind = METADATA_FIELDS[name]
    if name == "release_date" and not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        raise FoldlineError(f"{where} is {text!r}, not a date like 2004-01-31")
    if name == "source" and text not in ("experimental", "distillation"):
        raise FoldlineError(f"{where} is {text!r}; valid: experimental, distillation")
    if kind is str:
        return text
    try:
        number: float | int = int(text) if kind is int else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise FoldlineError(f"{where} is {text!r}, not a number of zero or more")
    return number
