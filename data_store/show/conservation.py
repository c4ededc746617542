"""What each column of an alignment says: how many rows cover it, and how little evolution let it change."""

from __future__ import annotations

import numpy as np

from ..residues import GAP, RESTYPES, UNKNOWN

# Residue frequencies behind BLOSUM62 (Henikoff & Henikoff 1992), in the order of RESTYPES: what an unconserved column looks like.
BACKGROUND = np.array(
    [
        *(0.078, 0.051, 0.041, 0.052, 0.024, 0.034, 0.059, 0.083, 0.025, 0.062),  # A R N D C Q E G H I
        *(0.092, 0.056, 0.024, 0.043, 0.043, 0.059, 0.055, 0.014, 0.034, 0.072),  # L K M F P S T W Y V
    ]
)
BACKGROUND /= BACKGROUND.sum()


def coverage(rows: np.ndarray) -> np.ndarray:
    """The share of rows with a residue in each column, the query left out: float64 [N_res] in 0..1, 0 for a query alone."""
    homologs = rows[1:]
    return (homologs != GAP).mean(0) if len(homologs) else np.zeros(rows.shape[1])


def frequencies(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted frequencies of the twenty residues among a column's residues: float64 [N_res, 20]; zero in a column without any."""
    counts = np.stack([weights @ (rows == residue) for residue in range(len(RESTYPES))], axis=1)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1e-12)


def conservation(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of each column from the background, times the weight of the rows that cover it: float64 [N_res] in 0..1.

    Capra & Singh 2007 (Bioinformatics 23, 1875), without their window. A rare residue that is kept (tryptophan) scores above a common
    one (leucine); a column with gaps scores less; one that holds nothing but gaps scores 0.
    """
    found = frequencies(rows, weights)
    middle = (found + BACKGROUND) / 2
    divergence = (_relative_entropy(found, middle) + _relative_entropy(np.broadcast_to(BACKGROUND, found.shape), middle)) / 2
    covered = weights @ (rows < UNKNOWN) / weights.sum()
    return divergence * covered


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Σ p log2(p/q) over the last axis, in bits."""
    return np.where(p > 0, p * np.log2(np.maximum(p, 1e-300) / q), 0.0).sum(-1)
