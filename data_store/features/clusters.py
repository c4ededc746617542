"""Assignment of the remaining MSA rows to their nearest cluster centre, and what each cluster holds (AF2 supplement 1.2.7).

The Hamming distances are counted on bit planes: five planes hold a residue type, 64 columns share a word, so one XOR compares 64 cells.
That is ten times faster than the product of one-hot matrices and exact as well.
"""

from __future__ import annotations

import numpy as np

from ..residues import GAP

N_CLASSES = 23  # 20 residue types, X, gap, mask token
_PLANES = 5
_WORD = 64
_BLOCK_WORDS = 40_000  # per plane; keeps one block of rows inside a core's second-level cache
# Gaps agree with nothing, themselves included: the two sides write them as different codes that are no residue type.
_ROW_GAP, _CENTRE_GAP = 30, 31
_EPSILON = np.float32(1e-6)


def pack_rows(rows: np.ndarray) -> np.ndarray:
    """uint8 [depth, N_res] -> bit planes uint64 [5, ceil(N_res / 64), depth] for ``nearest_clusters``."""
    return _pack(rows, _ROW_GAP)


def nearest_clusters(planes: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The centre that agrees with each row in most columns; of equals the first.

    ``planes`` from ``pack_rows``, ``centres`` uint8 [N_clust, N_res] after masking. Gaps and mask tokens agree with nothing. Returns
    int64 [depth].
    """
    packed = _pack(centres, _CENTRE_GAP)
    _, words, depth = planes.shape
    step = max(1, _BLOCK_WORDS // words)
    nearest = np.empty(depth, np.int64)
    for start in range(0, depth, step):
        block = np.ascontiguousarray(planes[:, :, start : start + step])
        differs, plane = np.empty(block.shape[1:], np.uint64), np.empty(block.shape[1:], np.uint64)
        distances = np.empty((len(centres), block.shape[2]), np.uint16)
        for index in range(len(centres)):
            centre = packed[:, :, index, None]
            np.bitwise_xor(block[0], centre[0], out=differs)
            for bit in range(1, _PLANES):
                np.bitwise_xor(block[bit], centre[bit], out=plane)
                np.bitwise_or(differs, plane, out=differs)
            np.add.reduce(np.bitwise_count(differs), axis=0, dtype=np.uint16, out=distances[index])
        nearest[start : start + step] = distances.argmin(axis=0)
    return nearest


def summarize_clusters(
    centres: np.ndarray, centre_deletions: np.ndarray, rows: np.ndarray, deletions: np.ndarray, nearest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Residue frequencies and mean deletions of each cluster, its centre included.

    ``centres`` uint8 [N_clust, N_res] after masking, ``rows`` uint8 [depth, N_res] the other rows, both with their deletions, ``nearest``
    [depth]. Returns cluster_profile float32 [N_clust, N_res, 23] and cluster_deletion_mean float32 [N_clust, N_res].
    """
    n_clusters, length = centres.shape
    cells = np.arange(length) * N_CLASSES
    order = np.argsort(nearest, kind="stable")
    limits = np.searchsorted(nearest[order], np.arange(n_clusters + 1))
    profile = np.empty((n_clusters, length * N_CLASSES), np.float32)
    deletion_sum = centre_deletions.astype(np.float32)
    for index in range(n_clusters):
        members = order[limits[index] : limits[index + 1]]
        cluster = np.concatenate([rows[members], centres[index : index + 1]])
        profile[index] = np.bincount((cluster + cells).ravel(), minlength=length * N_CLASSES)
        deletion_sum[index] += deletions[members].sum(axis=0, dtype=np.float32)
    sizes = (_EPSILON + np.float32(1)) + np.diff(limits).astype(np.float32)
    return (profile / sizes[:, None]).reshape(n_clusters, length, N_CLASSES), deletion_sum / sizes[:, None]


def _pack(rows: np.ndarray, gap: int) -> np.ndarray:
    depth, length = rows.shape
    codes = np.where(rows == GAP, np.uint8(gap), rows)
    packed = np.zeros((_PLANES, depth, -(-length // _WORD) * (_WORD // 8)), np.uint8)
    for bit in range(_PLANES):
        plane = np.packbits((codes >> bit) & 1, axis=1)
        packed[bit, :, : plane.shape[1]] = plane
    return np.ascontiguousarray(packed.view(np.uint64).transpose(0, 2, 1))
