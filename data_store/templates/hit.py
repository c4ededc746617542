"""A template hit: one aligned pair of query and database sequence, as HHsearch or hmmsearch reports it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

GAP_COLUMN = -1
_PDB_NAME = re.compile(r"(pdb_[0-9a-z]{8}|\d[0-9a-z]{3})(?:_([0-9a-z.]+))?(?![0-9a-z_|])", re.IGNORECASE)


@dataclass(frozen=True)
class TemplateHit:
    """One hit. ``query`` and ``hit_sequence`` are rows of one alignment in capital letters, '-' for a gap.

    ``index`` counts hits of the file from 1; ``name`` is the whole description; ``aligned_cols`` counts match columns that both have;
    ``sum_probs`` is HHsearch's sum of posterior probabilities, None for a program that gives none; ``indices_query`` and
    ``indices_hit`` number the letters from 0 within query and database sequence, -1 at gaps.
    """

    index: int
    name: str
    aligned_cols: int
    sum_probs: float | None
    query: str
    hit_sequence: str
    indices_query: tuple[int, ...]
    indices_hit: tuple[int, ...]

    @property
    def pdb_id(self) -> str:
        """The PDB entry in lower case, '' when the name does not begin with one."""
        match = _PDB_NAME.match(self.name)
        return match[1].lower() if match else ""

    @property
    def chain(self) -> str:
        """The author chain id, '' when the name gives none ('.' means the same)."""
        match = _PDB_NAME.match(self.name)
        return (match[2] or "").strip(".") if match else ""

    @property
    def letters(self) -> str:
        """The hit's residues without gaps."""
        return self.hit_sequence.replace("-", "")

    @property
    def label(self) -> str:
        """'1abc_A' for messages, else the first word of the name."""
        return f"{self.pdb_id}_{self.chain or '?'}" if self.pdb_id else (self.name.split() or ["?"])[0]

    def pairs(self) -> np.ndarray:
        """int64 [n, 2]: (place in the query, place in ``letters``) of each column where both have a residue."""
        query, hit = np.array(self.indices_query, np.int64), np.array(self.indices_hit, np.int64)
        both = (query != GAP_COLUMN) & (hit != GAP_COLUMN)
        first = hit[hit != GAP_COLUMN].min(initial=np.iinfo(np.int64).max)
        return np.stack([query[both], hit[both] - first], axis=1)


def numbered(row: str, start: int) -> tuple[int, ...]:
    """Number of each letter of an alignment row counted from ``start``, -1 at gaps."""
    letters = np.frombuffer(row.encode(), np.uint8) != ord("-")
    return tuple(np.where(letters, start + np.cumsum(letters) - 1, GAP_COLUMN).tolist())
