"""Layout: a table with one line per chain: id, structure, chain, msas (several with ';'), hits, and any field of ``ChainMetadata``."""

from __future__ import annotations

import csv
import difflib
from collections import defaultdict
from pathlib import Path
from typing import Any

from ...errors import FoldlineError
from ...settings import nearest
from ..metadata_table import METADATA_FIELDS, Overrides, metadata_value
from .entry import Entry, Listing, Wanted
from .outcome import Outcome, quarantined

_ID = "id"
# A column's names; published tables call their files by the longer ones.
_FILES = {"structure": "structure", "structure_file": "structure", "msas": "msas", "msa": "msas", "msa_file": "msas", "hits": "hits"}
_SEPARATOR = ";"
_ONLY_CHAIN = ("-", "(blank)")  # how tables write that a file has one chain without a name
_TYPO = 0.88  # likeness from which an unknown column is taken for a misspelt one
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def list_manifest(path: Path) -> Listing:
    """The chains of a .csv or .tsv file; paths in it are relative to it.

    A column with no known name is left out and named in the report; one that looks misspelt is an error. Raises FoldlineError for a file
    that is no such table, a missing column, a wrong value, an id given twice.
    """
    columns, rows = _read(path)
    files = {column: _FILES[column] for column in columns if column in _FILES}
    unread = _unread(path, columns)
    groups: dict[tuple[Path, str], list[Wanted]] = defaultdict(list)
    overrides: dict[str, Overrides] = {}
    outcomes: list[Outcome] = []
    for line, row in rows:
        where, chain_id = f"{path} line {line}", row[_ID]
        if chain_id in overrides:
            raise FoldlineError(f"{where}: id '{chain_id}' is given twice; keep one row")
        cells = {n: metadata_value(f"{where}: {n}", n, row[n]) for n in columns if n in METADATA_FIELDS and row[n]}
        overrides[chain_id] = cells
        paths: dict[str, tuple[Path, ...]] = defaultdict(tuple)
        for column, role in files.items():
            paths[role] += tuple(path.parent / part.strip() for part in row[column].split(_SEPARATOR) if part.strip())
        missing = [p for role in paths.values() for p in role if not p.is_file()]
        if len(paths["structure"]) != 1:
            outcomes.append(quarantined(chain_id, f"line {line} of {path.name} names {len(paths['structure'])} structures, not one"))
        elif missing:
            outcomes.append(quarantined(chain_id, f"{missing[0]} does not exist; correct line {line} of {path.name}"))
        else:
            key = (paths["structure"][0], str(cells.get("source", "experimental")))
            groups[key].append(
                Wanted(chain_id, "" if row.get("chain") in _ONLY_CHAIN else row.get("chain", ""), paths["msas"], paths["hits"])
            )
    entries = []
    for (structure, source), wanted in groups.items():
        rows_here = {w.chain_id: overrides[w.chain_id] for w in wanted}
        entries.append(Entry(wanted[0].chain_id, structure, tuple(wanted), source=source, overrides=rows_here))
    remarks = (f"columns of {path.name} that were not read: {', '.join(unread)}",) if unread else ()
    return Listing("manifest", tuple(entries), tuple(outcomes), remarks=remarks)


def _read(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns and (line number, cells) of each row."""
    delimiter = _DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        raise FoldlineError(f"{path} is no manifest; give a .csv or .tsv file with the columns {_ID}, structure, chain, msas, hits")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FoldlineError(f"{path} cannot be read ({error}); give UTF-8 text") from None
    style: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if delimiter == "\t" else {}
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, restval="", **style)
    columns = list(reader.fieldnames or ())
    for needed in (_ID, "structure"):
        if not any(_FILES.get(column, column) == needed for column in columns):
            raise FoldlineError(
                f"{path} has no column '{needed}'; its first line must name the columns, '{_ID}' and 'structure' among them"
            )
    rows = []
    for line, row in enumerate(reader, start=2):
        if None in row:
            raise FoldlineError(f"{path} line {line} has more cells than the header has columns")
        rows.append((line, {name: text.strip() for name, text in row.items()}))
    return columns, [(line, row) for line, row in rows if row[_ID]]


def _unread(path: Path, columns: list[str]) -> list[str]:
    known = [_ID, "chain", *_FILES, *METADATA_FIELDS]
    unread = [column for column in columns if column not in known]
    for column in unread:
        if difflib.get_close_matches(column, known, n=1, cutoff=_TYPO):
            raise FoldlineError(f"{path}: unknown column '{column}'; {nearest(column, known)}")
    return unread
