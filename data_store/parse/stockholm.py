"""Stockholm alignments (jackhmmer, hmmalign, Pfam), read as the A3M of their first sequence.

The first sequence is the query. Its columns are the alignment's columns in which it has a residue; what other rows have elsewhere are
insertions. Blocks of wrapped alignments are joined by name; #=GF, #=GC and #=GR annotation is left out. Gaps are '-', '.', '_' or '~'.
"""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np

from ...errors import FoldlineError
from .a3m import ParsedA3m, fit_rows
from .text import read_source

_GAPS = b".-_~"
_UPPER = bytes.maketrans(string.ascii_lowercase.encode(), string.ascii_uppercase.encode())
_LOWER = bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode())
_TO_DASH = bytes.maketrans(_GAPS, b"-" * len(_GAPS))


def read_stockholm(path: Path) -> ParsedA3m:
    """Read a .sto file, plain or .gz. Raises FoldlineError as ``parse_stockholm`` does, and for a damaged file."""
    return parse_stockholm(read_source(path), path.name)


def parse_stockholm(data: bytes, where: str) -> ParsedA3m:
    """Parse Stockholm text; ``where`` names it in errors. Names of rows are the sequences' names without description.

    Rows and letters follow the rules of ``parse_a3m``. Only the first alignment of a file is read; others, and an end that is missing,
    are named in ``notes``. Raises FoldlineError when the text is no Stockholm alignment, holds no sequence, or most rows do not fit.
    """
    rows, notes = stockholm_rows(data, where)
    parsed = fit_rows(_a3m_rows(rows, where), where)
    return ParsedA3m(parsed.names, parsed.rows, parsed.deletions, (*parsed.notes, *notes))


def stockholm_to_a3m(data: bytes, where: str) -> str:
    """Stockholm text as A3M text of its first sequence, headers '>name description'. Raises FoldlineError as ``parse_stockholm`` does."""
    rows, _ = stockholm_rows(data, where)
    described = descriptions(data)
    return "".join(f">{name} {described.get(name, '')}\n{row.decode()}\n" for name, row in _a3m_rows(rows, where))


def stockholm_rows(data: bytes, where: str) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """(name -> aligned row of the first alignment, blocks joined, in the file's order; notes). FoldlineError as ``parse_stockholm``."""
    if not data.lstrip().startswith(b"# STOCKHOLM"):
        raise FoldlineError(f"{where} does not begin with '# STOCKHOLM 1.0': it is no Stockholm alignment")
    blocks: dict[str, list[bytes]] = {}
    lines = data.splitlines()
    end = next((i for i, line in enumerate(lines) if line.startswith(b"//")), None)
    for number, line in enumerate(lines[:end], start=1):
        if not line.strip() or line.startswith(b"#"):
            continue
        fields = line.split()
        if len(fields) != 2:
            raise FoldlineError(f"{where}, line {number}: alignment lines are 'name row', this one has {len(fields)} words; correct it")
        blocks.setdefault(fields[0].decode(errors="replace"), []).append(fields[1])
    if not blocks:
        raise FoldlineError(f"{where} holds no sequence; an empty search result needs no file")
    notes: tuple[str, ...] = ()
    if end is None:
        notes = (f"{where} does not end in '//': it may be cut off",)
    elif more := sum(line.startswith(b"# STOCKHOLM") for line in lines[end:]):
        notes = (f"{where} holds {more + 1} alignments: the first was read",)
    return {name: b"".join(parts) for name, parts in blocks.items()}, notes


def descriptions(data: bytes) -> dict[str, str]:
    """Name -> description, from '#=GS name DE text' lines."""
    found: dict[str, str] = {}
    for line in data.splitlines():
        if line.startswith(b"#=GS"):
            fields = line.split(maxsplit=3)
            if len(fields) >= 3 and fields[2] == b"DE":
                found[fields[1].decode(errors="replace")] = fields[3].decode(errors="replace").rstrip() if len(fields) == 4 else ""
    return found


def _a3m_rows(rows: dict[str, bytes], where: str) -> list[tuple[str, bytes]]:
    """(name, A3M row) of each row as wide as the first; a row of another width becomes empty, which ``fit_rows`` drops and counts."""
    query = next(iter(rows.values()))
    columns = ~np.isin(np.frombuffer(query, np.uint8), np.frombuffer(_GAPS, np.uint8))
    if not columns.any():
        raise FoldlineError(f"{where}: its first sequence, the query, is empty")
    converted = []
    for name, row in rows.items():
        if len(row) != len(query):
            converted.append((name, b""))
            continue
        row = row.translate(_TO_DASH)
        letters = np.where(columns, np.frombuffer(row.translate(_UPPER), np.uint8), np.frombuffer(row.translate(_LOWER), np.uint8))
        converted.append((name, letters[columns | (letters != ord("-"))].tobytes()))
    return converted
