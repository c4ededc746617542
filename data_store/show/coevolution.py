"""Which positions change together: the couplings of a mean-field model of the alignment, corrected for what is common to a column.

Two residues in contact constrain each other, so their columns are correlated; but so are columns linked through third ones, and columns
that merely vary much or split the family's branches. The inverse of the covariance tells direct from indirect links (Morcos et al.
2011, PNAS 108, E1293: mean-field direct-coupling analysis; Baldassi et al. 2014, PLoS ONE 9, e92721: the same as a Gaussian model), the
average-product correction removes each column's own level (Dunn, Wahl & Gloor 2008, Bioinformatics 24, 333), and the Frobenius norm over
residue pairs makes one number of a block (Ekeberg et al. 2013, PRE 87, 012707).
"""

from __future__ import annotations

import numpy as np

from ..residues import UNKNOWN
from .alignment import Alignment, sequence_weights, spaced_rows

# Added to the covariance's diagonal, divided by the root of N_eff: the pseudocount of few sequences. Value: Yang et al. 2020 (trRosetta).
RIDGE = 4.5
_STATES = 21  # twenty residues and "no residue": gap or unknown
_MOST_WORK = 3e11  # multiplications of one chain; bounds time and memory of long chains by taking fewer rows
_BLOCK = 16  # columns of the score matrix made at a time


def coevolution(alignment: Alignment) -> tuple[np.ndarray, int]:
    """Corrected coupling strength of every pair of columns: float32 [N_res, N_res], symmetric, zero diagonal; and the rows it came from.

    All zero for a query alone. Chains above 500 residues use fewer rows than the alignment has, evenly spaced and weighted anew.
    """
    rows, weights = alignment.rows, alignment.weights
    kept = spaced_rows(rows, coupling_row_limit(rows.shape[1]))
    if len(kept) < 2:
        return np.zeros((rows.shape[1],) * 2, np.float32), len(kept)
    if len(kept) < len(rows):
        weights = sequence_weights(kept)
    return average_product_correction(coupling_norms(kept, weights)), len(kept)


def coupling_row_limit(length: int) -> int:
    """How many rows the couplings of a chain of ``length`` residues are computed from, at least 200."""
    return max(200, int(_MOST_WORK / (_STATES * max(length, 1)) ** 2))


def average_product_correction(scores: np.ndarray) -> np.ndarray:
    """Symmetric scores [N_res, N_res] less the product of both columns' means over the mean of all pairs (Dunn 2008), diagonal zero."""
    length = len(scores)
    if length < 3:
        return np.zeros_like(scores)
    scores = scores - np.diag(np.diag(scores))
    means = scores.sum(0) / (length - 1)
    if not means.any():
        return scores
    corrected = scores - np.outer(means, means) / means.mean()
    np.fill_diagonal(corrected, 0)
    return corrected


def coupling_norms(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Frobenius norm of the twenty-by-twenty couplings of each pair of columns, float32 [N_res, N_res].

    ``rows`` [N, N_res] types 0..21, ``weights`` [N]. With Z the weighted, centred, one-hot alignment and r the ridge, the couplings are
    the off-diagonal blocks of (ZᵀZ + r)⁻¹; where there are fewer rows than states that equals -Zᵀ(ZZᵀ + r)⁻¹Z / r, which costs less.
    """
    centred, ridge = _centred(rows, weights), np.float32(RIDGE / np.sqrt(weights.sum()))
    if len(rows) < centred.shape[1]:
        gram = centred @ centred.T
        gram[np.diag_indices_from(gram)] += ridge
        factor = np.linalg.solve(np.linalg.cholesky(gram), centred)
        return _block_norms(factor, rows.shape[1]) / ridge
    covariance = centred.T @ centred
    covariance[np.diag_indices_from(covariance)] += ridge
    return _block_norms(np.linalg.inv(np.linalg.cholesky(covariance)), rows.shape[1])


def _centred(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float32 [N, N_res * 21]: one-hot rows less their weighted mean, scaled so that ZᵀZ is the covariance."""
    states = np.minimum(rows, UNKNOWN)
    hot = np.zeros((*rows.shape, _STATES), np.float32)
    np.put_along_axis(hot, states[..., None].astype(np.intp), 1.0, axis=-1)
    flat, share = hot.reshape(len(rows), -1), (weights / weights.sum()).astype(np.float32)
    flat -= share @ flat
    flat *= np.sqrt(share)[:, None]
    return flat


def _block_norms(factor: np.ndarray, length: int) -> np.ndarray:
    """Norms of the blocks of FᵀF over the twenty residues, for F [K, N_res * 21], a strip of columns at a time: [N_res, N_res]."""
    factor = np.ascontiguousarray(factor.reshape(-1, length, _STATES)[..., :UNKNOWN]).reshape(len(factor), -1)
    norms = np.zeros((length, length), np.float32)
    for first in range(0, length, _BLOCK):
        strip = slice(first, min(first + _BLOCK, length))
        width = strip.stop - first
        blocks = factor[:, first * UNKNOWN : strip.stop * UNKNOWN].T @ factor[:, first * UNKNOWN :]
        norms[strip, first:] = np.sqrt(np.square(blocks).reshape(width, UNKNOWN, length - first, UNKNOWN).sum((1, 3)))
    return np.triu(norms) + np.triu(norms, 1).T
