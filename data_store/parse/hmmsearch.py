"""Template hits of hmmsearch: the Stockholm alignment of its -A option (AF2's pdb_hits.sto), or the same as A3M.

The profile is built from the query's own columns (hmmbuild --hand), so each match column (capital letter or '-') is one query residue;
lower-case letters are insertions. A row is named 'PDBID_CHAIN/first-last', the range counted from 1 in the database sequence.
"""

from __future__ import annotations

import re
import string
from pathlib import Path

import numpy as np

from ...errors import FoldlineError
from ..templates.hit import GAP_COLUMN, TemplateHit
from .a3m import fasta_records
from .stockholm import descriptions, stockholm_rows
from .text import read_source

_RANGE = re.compile(r"(\S+)/(\d+)-(\d+)")
_OTHER_MOLECULE = re.compile(r"\bmol:(?!protein)")
_LOWER = string.ascii_lowercase.encode()


def read_hmmsearch(path: Path, query: str) -> tuple[TemplateHit, ...]:
    """Read pdb_hits.sto or .a3m, plain or .gz, found with ``query``. FoldlineError as ``parse_hmmsearch``, and for a damaged file."""
    return parse_hmmsearch(read_source(path), query, path.name)


def parse_hmmsearch(data: bytes, query: str, where: str) -> tuple[TemplateHit, ...]:
    """The hits in the file's order (hmmsearch: best first); ``where`` names the text in errors.

    Rows whose description says that they are no protein ('mol:na') are left out, as is a first row of A3M that is the query itself.
    Raises FoldlineError when a row has no range in its name, another number of match columns than ``query`` has residues, or other
    letters than its range has places.
    """
    described: dict[str, str] = {}
    if data.lstrip().startswith(b">"):
        records = [(name, row) for name, row in fasta_records(data, where) if row.decode(errors="replace") != query]
    else:
        rows, _ = stockholm_rows(data, where)
        records, described = list(rows.items()), descriptions(data)
    hits = []
    for index, (header, row) in enumerate(records, start=1):
        name = f"{header} {described.get(header, '')}".strip()
        if not _OTHER_MOLECULE.search(name):
            hits.append(_hit(index, name, row.translate(None, b"."), query, where))
    return tuple(hits)


def _hit(index: int, name: str, row: bytes, query: str, where: str) -> TemplateHit:
    match = _RANGE.match(name)
    if match is None:
        raise FoldlineError(f"{where}: row {index} is named '{name.split()[0]}', not PDBID_CHAIN/first-last as hmmsearch -A names its hits")
    letters = np.frombuffer(row, np.uint8)
    inserted = np.isin(letters, np.frombuffer(_LOWER, np.uint8))
    residue = letters != ord("-")
    if len(letters) - int(inserted.sum()) != len(query):
        raise FoldlineError(
            f"{where}: row {index}, {match[1]}, has {len(letters) - int(inserted.sum())} match columns and the query has {len(query)} "
            "residues; build the profile from the query's columns (hmmbuild --hand) or give the query that was searched with"
        )
    first, last = int(match[2]), int(match[3])
    if last - first + 1 != int(residue.sum()):
        raise FoldlineError(f"{where}: row {index}, {match[0]}, has {int(residue.sum())} letters and not {last - first + 1}: cut off?")
    return TemplateHit(
        index=index,
        name=name.replace(match[0], match[1], 1),
        aligned_cols=int((residue & ~inserted).sum()),
        sum_probs=None,
        query=_with_insertions(query, inserted),
        hit_sequence=row.decode().upper(),
        indices_query=tuple(np.where(inserted, GAP_COLUMN, np.cumsum(~inserted) - 1).tolist()),
        indices_hit=tuple(np.where(residue, first + np.cumsum(residue) - 2, GAP_COLUMN).tolist()),
    )


def _with_insertions(query: str, inserted: np.ndarray) -> str:
    """The query's row of the pairwise alignment: a gap where the hit has an insertion."""
    row = np.full(len(inserted), ord("-"), np.uint8)
    row[~inserted] = np.frombuffer(query.encode(), np.uint8)
    return row.tobytes().decode()
