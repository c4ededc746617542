"""Assignment of the remaining MSA rows to their nearest cluster centre, and what each cluster holds (AF2 supplement 1.2.7).

The Hamming distances are counted on bit planes: five planes hold a residue type, 64 columns share a word, so one XOR compares 64 cells.
That is ten times faster than the product of one-hot matrices and exact as well.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..residues import GAP
from .msa import cells_with_deletions

N_CLASSES = 23  # 20 residue types, X, gap, mask token
_PLANES = 5
_WORD = 64
# Words of one plane that are worked on at a time: enough that numpy's cost per call is small, few enough to stay in the caches.
_BLOCK_WORDS = 64_000
_PACK_ROWS = 512
# Cells whose counts are taken at once, and the most clusters among them.
_COUNT_CELLS, _COUNT_CLUSTERS = 65_536, 64
# Gaps agree with nothing, themselves included: the two sides write them as different codes that are no residue type.
_ROW_GAP, _CENTRE_GAP = 30, 31
_EPSILON = np.float32(1e-6)


class ClusterCounts(NamedTuple):
    """What the clusters hold, their centres included, in the smallest integers that do.

    ``residues`` uint8 to uint32 [N_clust, N_res, 23] rows with each residue type, ``deletions`` uint8 to uint32 [N_clust, N_res] sums,
    ``sizes`` int32 [N_clust] rows beside the centre.
    """

    residues: np.ndarray
    deletions: np.ndarray
    sizes: np.ndarray


def pack_rows(rows: np.ndarray) -> np.ndarray:
    """uint8 [depth, N_res] -> bit planes uint64 [5, ceil(N_res / 64), depth] for ``nearest_clusters``."""
    return _pack(rows, _ROW_GAP)


def nearest_clusters(planes: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The centre that agrees with each row in most columns; of equals the first.

    ``planes`` from ``pack_rows``, ``centres`` uint8 [N_clust, N_res] after masking. Gaps and mask tokens agree with nothing. Returns
    int64 [depth].
    """
    packed = np.ascontiguousarray(_pack(centres, _CENTRE_GAP).transpose(2, 0, 1))[..., None]
    _, words, depth = planes.shape
    step = max(1, _BLOCK_WORDS // words)
    nearest = np.empty(depth, np.int64)
    for start in range(0, depth, step):
        nearest[start : start + step] = _nearest(np.ascontiguousarray(planes[:, :, start : start + step]), packed)
    return nearest


def _nearest(planes: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """One block of rows against all centres ``packed`` uint64 [N_clust, 5, words, 1], of few rows with several centres at a time.

    The smallest of distance x N_clust + number is kept as the centres go by: the first of the nearest wins, and no table of all
    distances is written and searched.
    """
    n_clusters, (_, words, depth) = len(packed), planes.shape
    group = min(n_clusters, max(1, _BLOCK_WORDS // (words * depth)))
    shape = (group, words, depth)
    buffers = [np.empty(shape, np.uint64), np.empty(shape, np.uint64), np.empty(shape, np.uint8)]
    buffers += [np.empty((group, depth), np.uint16), np.empty((group, depth), np.uint32)]
    numbers = np.arange(n_clusters, dtype=np.uint32)[:, None]
    best = np.full(depth, np.iinfo(np.uint32).max, np.uint32)
    for first in range(0, n_clusters, group):
        centres = packed[first : first + group].swapaxes(0, 1)
        differs, plane, ones, distance, key = (buffer[: centres.shape[1]] for buffer in buffers)
        np.bitwise_xor(planes[0], centres[0], out=differs)
        for bit in range(1, _PLANES):
            np.bitwise_xor(planes[bit], centres[bit], out=plane)
            np.bitwise_or(differs, plane, out=differs)
        np.bitwise_count(differs, out=ones)
        np.add.reduce(ones, axis=1, dtype=np.uint16, out=distance)
        np.multiply(distance, np.uint32(n_clusters), out=key)
        np.add(key, numbers[first : first + group], out=key)
        np.minimum(best, np.minimum.reduce(key, axis=0), out=best)
    return best % np.uint32(n_clusters)


def count_clusters(
    centres: np.ndarray, centre_deletions: np.ndarray, rows: np.ndarray, deletions: np.ndarray, nearest: np.ndarray
) -> ClusterCounts:
    """Count residues and deletions in each cluster, its centre included.

    ``centres`` uint8 [N_clust, N_res] after masking, ``rows`` uint8 [depth, N_res] the other rows, both with their deletions, ``nearest``
    [depth] the cluster of each.
    """
    n_clusters, length = centres.shape
    order = np.argsort(nearest, kind="stable")
    sizes = np.bincount(nearest, minlength=n_clusters)
    limits = np.concatenate([[0], np.cumsum(sizes)])
    residues = np.empty((n_clusters, length * N_CLASSES), np.min_scalar_type(int(sizes.max()) + 1))
    cells = np.arange(length) * N_CLASSES
    first = 0
    while first < n_clusters:
        last = int(np.searchsorted(limits, limits[first] + _COUNT_CELLS // length, side="right")) - 1
        last = min(max(last, first + 1), first + _COUNT_CLUSTERS, n_clusters)
        members = order[limits[first] : limits[last]]
        slots = np.empty((len(members) + last - first, length), np.int64)
        places = np.concatenate([nearest[members] - first, np.arange(last - first)]) * (length * N_CLASSES)
        np.add(places[:, None], cells, out=slots)
        slots[: len(members)] += rows[members]
        slots[len(members) :] += centres[first:last]
        counts = np.bincount(slots.ravel(), minlength=(last - first) * length * N_CLASSES)
        residues[first:last] = counts.reshape(last - first, -1)
        first = last
    totals = _sum_deletions(centre_deletions, deletions, nearest)
    return ClusterCounts(residues.reshape(n_clusters, length, N_CLASSES), totals, sizes.astype(np.int32))


def _sum_deletions(centre_deletions: np.ndarray, deletions: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    length = centre_deletions.shape[1]
    totals = centre_deletions.astype(np.int64)
    cells = cells_with_deletions(deletions)
    rows, columns = np.divmod(cells, length)
    np.add.at(totals.reshape(-1), nearest[rows] * length + columns, deletions.reshape(-1)[cells].astype(np.int64))
    return totals.astype(np.min_scalar_type(int(totals.max(initial=0))))


def cluster_means(counts: ClusterCounts, profile: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """cluster_profile [N_clust, N_res, 23], into ``profile`` where given, and cluster_deletion_mean [N_clust, N_res], both float32."""
    sizes = (_EPSILON + np.float32(1)) + counts.sizes.astype(np.float32)
    if profile is None:
        profile = np.empty(counts.residues.shape, np.float32)
    np.divide(counts.residues, sizes[:, None, None], out=profile, dtype=np.float32, casting="same_kind")
    return profile, counts.deletions.astype(np.float32) / sizes[:, None]


def _pack(rows: np.ndarray, gap: int) -> np.ndarray:
    depth, length = rows.shape
    words = -(-length // _WORD)
    packed = np.empty((_PLANES, words, depth), np.uint64)
    codes = np.zeros((min(_PACK_ROWS, depth), words * _WORD), np.uint8)
    for start in range(0, depth, _PACK_ROWS):
        block = rows[start : start + _PACK_ROWS]
        part = codes[: len(block)]
        np.add(block, (block == GAP) * np.uint8(gap - GAP), out=part[:, :length])
        for bit in range(_PLANES):
            bits = np.packbits(part & np.uint8(1 << bit))
            packed[bit, :, start : start + len(block)] = bits.view(np.uint64).reshape(len(block), words).T
    return packed
