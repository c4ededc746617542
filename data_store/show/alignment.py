"""The alignment that a chain is shown with: its different rows, weighted by how alone each stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..features.msa import merge_msas, unique_rows
from ..residues import GAP, UNKNOWN
from ..types import Msa

IDENTITY = 0.8  # rows at least this identical count as one sequence (Morcos et al. 2011)
MOST_ROWS = 5_000  # of chains up to _FULL_LENGTH residues; fewer of longer ones, so that the time stays bounded
_FULL_LENGTH = 500
_BITS = 5  # of a residue type


@dataclass(frozen=True)
class Alignment:
    """Different rows of a chain, the query first, and their weights.

    ``rows`` uint8 [N, N_res] residue types 0..21 (20 unknown, 21 gap); ``weights`` float64 [N], 1 over the number of rows that are at
    least 80 % identical to a row, itself included; ``total`` the number of different rows that the chain has.
    """

    rows: np.ndarray
    weights: np.ndarray
    total: int

    @property
    def n_eff(self) -> float:
        """The effective number of sequences: the sum of the weights."""
        return float(self.weights.sum())


def read_alignment(msas: Sequence[Msa]) -> Alignment:
    """All alignments of a chain as one. Of more rows than the limit, evenly spaced ones stand for all."""
    rows, _ = merge_msas(unique_rows(msas))
    kept = spaced_rows(rows, row_limit(rows.shape[1]))
    return Alignment(kept, sequence_weights(kept), len(rows))


def row_limit(length: int) -> int:
    """How many rows of a chain of ``length`` residues are looked at: weighting them takes rows² x length steps."""
    return int(MOST_ROWS * min(1.0, (_FULL_LENGTH / max(length, 1)) ** 0.5))


def spaced_rows(rows: np.ndarray, limit: int) -> np.ndarray:
    """``limit`` evenly spaced rows, the first among them; all where there are no more."""
    if len(rows) <= limit:
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).astype(int)]


def sequence_weights(rows: np.ndarray, identity: float = IDENTITY) -> np.ndarray:
    """1 / (rows that have at least ``identity`` of a row's residues in the same columns), for every row: float64 [N].

    ``rows`` [N, N_res], types 0..21. Columns in which a row has a gap or an unknown residue do not count for it, so a fragment gives way
    to the full sequence it belongs to, while that one keeps its weight. Repeating rows leaves the sum of the weights as it is. Morcos et
    al. 2011 (PNAS 108, E1293) count gaps as residues, which makes all short fragments alike.
    """
    planes, residues = _bit_planes(rows)
    aligned = np.bitwise_count(residues).sum(0, dtype=np.int64)
    neighbours = np.empty(len(rows))
    for row in range(len(rows)):
        differs = planes[0] ^ planes[0][:, row, None]
        for plane in planes[1:]:
            differs |= plane ^ plane[:, row, None]
        same = residues & ~differs
        neighbours[row] = (np.bitwise_count(same).sum(0, dtype=np.int32) >= identity * aligned[row]).sum()
    return 1.0 / neighbours


def _bit_planes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each bit of the residue types, uint64 [5, words, N], and where there is a known residue, [words, N]: 64 columns to a word."""
    width = -(-rows.shape[1] // 64) * 64
    padded = np.full((len(rows), width), GAP, np.uint8)
    padded[:, : rows.shape[1]] = rows
    bits = np.stack([(padded >> bit) & 1 for bit in range(_BITS)] + [padded < UNKNOWN])
    words = np.ascontiguousarray(np.packbits(bits, axis=-1).view(np.uint64).swapaxes(1, 2))
    return words[:_BITS], words[_BITS]
