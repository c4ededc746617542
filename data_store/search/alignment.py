"""Rows of an alignment in the query's columns (A3M), and the way back to a profile's columns for template searches."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import FoldlineError
from ..parse.a3m import fasta_records

_GAPS = b"-.~_"
_LOWER = bytes(range(ord("a"), ord("z") + 1))


class Row(NamedTuple):
    """``columns``: capitals and '-' are the query's columns, lower-case letters insertions."""

    header: str
    columns: bytes


def rows_of(names: Sequence[str], descriptions: Sequence[str], aligned: Sequence[bytes]) -> list[Row]:
    """Equally long aligned rows, the query first, as A3M rows: columns in which the query has a gap become insertions."""
    table = np.frombuffer(b"".join(aligned).upper(), np.uint8).reshape(len(aligned), -1)
    gap = np.isin(table, np.frombuffer(_GAPS, np.uint8))
    match = ~gap[0]
    # Lower case in insertions; the gaps of match columns are '-', those of insertions are left out.
    shown = np.where(match, np.where(gap, ord("-"), table), np.where(gap, 0, table + 32)).astype(np.uint8)
    rows = []
    for name, description, row in zip(names, descriptions, shown, strict=True):
        rows.append(Row(f"{name} {description}".strip(), row[row > 0].tobytes()))
    return rows


def read_rows(data: bytes, where: str) -> list[Row]:
    """The rows of A3M text."""
    return [Row(header, columns) for header, columns in fasta_records(data, where)]


def a3m_text(rows: Sequence[Row]) -> bytes:
    """A3M text, one line per sequence."""
    return b"".join(b">%s\n%s\n" % (row.header.encode(), row.columns) for row in rows)


def stockholm_text(rows: Sequence[Row], name: str) -> bytes:
    """Stockholm text in blocks of one line, insertions left-justified in columns of their own, 'x' of ``#=GC RF`` on the query's columns.

    Rows are named by their number, which keeps names unique; the alignment serves to build a profile.
    """
    widths = _insertion_widths(rows)
    lines = [b"# STOCKHOLM 1.0", b"#=GF ID " + name.encode()]
    lines += [b"%d %s" % (number, _spread(row.columns, widths)) for number, row in enumerate(rows)]
    reference = b"".join(b"." * int(width) + b"x" for width in widths[:-1]) + b"." * int(widths[-1])
    return b"\n".join([*lines, b"#=GC RF " + reference, b"//", b""])


def _insertion_widths(rows: Sequence[Row]) -> np.ndarray:
    """[N_res + 1] the longest insertion before each query column and after the last."""
    length = len(rows[0].columns.translate(None, _LOWER))
    widths = np.zeros(length + 1, int)
    for row in rows:
        before = _insertions(row.columns)
        if len(before) != length + 1:
            raise FoldlineError(
                f"row {row.header!r} has {len(before) - 1} columns, the query {length}; the alignment is damaged, delete it"
            )
        np.maximum(widths, before, out=widths)
    return widths


def _insertions(columns: bytes) -> np.ndarray:
    letters = np.frombuffer(columns, np.uint8)
    match = (letters < ord("a")).nonzero()[0]
    return np.diff(np.concatenate([[-1], match, [len(letters)]])) - 1


def _spread(columns: bytes, widths: np.ndarray) -> bytes:
    parts: list[bytes] = []
    start = 0
    inserted = _insertions(columns)
    for number, (own, width) in enumerate(zip(inserted.tolist(), widths.tolist(), strict=True)):
        parts.append(columns[start : start + own] + b"." * (width - own))
        start += own
        if number < len(widths) - 1:
            parts.append(columns[start : start + 1])
            start += 1
    return b"".join(parts)


def without_repeats(rows: Sequence[Row]) -> list[Row]:
    """The first of each set of rows that agree in the query's columns, as AF2 prepares alignments for template searches."""
    first: dict[bytes, Row] = {}
    for row in rows:
        first.setdefault(row.columns.translate(None, _LOWER), row)
    return list(first.values())


def digital_msa(text: bytes) -> Any:
    """Stockholm text as pyhmmer's digital alignment."""
    from pyhmmer.easel import Alphabet, MSAFile

    with MSAFile(io.BytesIO(text), format="stockholm", digital=True, alphabet=Alphabet.amino()) as file:
        return file.read()


def rows_of_msa(msa: Any, query: str) -> list[Row]:
    """A3M rows of a pyhmmer text alignment that has a row named ``query``; it comes first, the rest stay in order.

    Easel orders rows by their first mention; the query has no description, so in a file it is mentioned after all that have one.
    """
    names = [_text(name) for name in msa.names]
    if query not in names:
        raise FoldlineError(f"the alignment found for {query} has no row of that name; report the program's version")
    order = [names.index(query), *(number for number, name in enumerate(names) if name != query)]
    descriptions = [_text(sequence.description or "") for sequence in msa.sequences]
    aligned = [row.encode() for row in msa.alignment]
    return rows_of([names[i] for i in order], [descriptions[i] for i in order], [aligned[i] for i in order])


def read_stockholm_rows(path: Path, query: str) -> list[Row]:
    """A3M rows of a Stockholm file, the one named ``query`` first."""
    from pyhmmer.easel import MSAFile

    try:
        with MSAFile(str(path), format="stockholm") as file:
            msa = file.read()
    except (ValueError, OSError) as error:
        raise FoldlineError(f"{path.name} of {query} cannot be read as Stockholm: {error}") from None
    return rows_of_msa(msa, query)


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
