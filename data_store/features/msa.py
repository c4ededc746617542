"""Which rows of a chain's alignments a sample sees: merging, block deletion, the choice of cluster centres (AF2 supplement 1.2.5-1.2.7)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..types import Msa

N_TYPES = 22  # 20 residue types, X, gap


def unique_rows(msas: Sequence[Msa]) -> tuple[Msa, ...]:
    """The alignments without any row that came before, in the same or an earlier one, whatever its deletions; the first one stays.

    An alignment of which nothing is left is dropped. Done once, when a chain is read or stored, so that no sample has to: all later
    steps take a chain's rows as unique. Alignments without repeats come back as they are.
    """
    seen: set[bytes] = set()
    unique = []
    for msa in msas:
        rows = np.ascontiguousarray(msa.rows, np.uint8)
        keep = []
        for index, key in enumerate(rows.view(f"V{max(1, rows.shape[1])}")[:, 0].tolist()):
            if key not in seen:
                seen.add(key)
                keep.append(index)
        if len(keep) == len(rows):
            unique.append(msa)
        elif keep:
            unique.append(Msa(msa.name, rows[keep], msa.deletions[keep]))
    return tuple(unique)


def merge_msas(msas: Sequence[Msa]) -> tuple[np.ndarray, np.ndarray]:
    """Stack alignments in order: uint8 rows and deletions, both [depth, N_res]. Row 0 is the query."""
    if len(msas) == 1:
        return msas[0].rows, msas[0].deletions
    return np.concatenate([msa.rows for msa in msas]), np.concatenate([msa.deletions for msa in msas])


def take_rows(msas: Sequence[Msa], keep: np.ndarray) -> tuple[Msa, ...]:
    """The alignments with the rows ``keep`` alone, rising numbers into all of them one behind another; one without any is left out."""
    taken = []
    start = 0
    for msa in msas:
        mine = keep[np.searchsorted(keep, start) : np.searchsorted(keep, start + len(msa.rows))] - start
        if len(mine) == len(msa.rows):
            taken.append(msa)
        elif len(mine):
            taken.append(Msa(msa.name, msa.rows[mine], msa.deletions[mine]))
        start += len(msa.rows)
    return tuple(taken)


def cells_with_deletions(deletions: np.ndarray) -> np.ndarray:
    """Flat numbers of the cells of uint8 ``deletions`` (contiguous) above 0. Most have none, so eight at a time are looked at first."""
    flat = deletions.reshape(-1)
    whole = len(flat) // 8 * 8
    octets = np.flatnonzero(flat[:whole].view(np.uint64))
    cells = np.concatenate([(octets[:, None] * 8 + np.arange(8)).reshape(-1), np.arange(whole, len(flat))])
    return cells[flat[cells] > 0]


def keep_after_block_deletion(depth: int, fraction: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Row numbers that survive ``count`` deleted blocks of ``fraction * depth`` neighbouring rows (Algorithm 1); 0 always survives.

    Alignments are sorted by similarity, so a block is a branch of the family.
    """
    keep = np.ones(depth, bool)
    size = int(depth * fraction)
    for start in rng.integers(0, depth, count):
        keep[start : start + size] = False
    keep[0] = True
    return np.flatnonzero(keep)


def keep_at_random(depth: int, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Row 0 and a uniform choice of the others, ``limit`` in all, in their order."""
    if depth <= limit:
        return np.arange(depth)
    others = rng.choice(depth - 1, limit - 1, replace=False) + 1
    return np.concatenate([[0], np.sort(others)])


def split_rows(depth: int, clusters: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the cluster centres (0 first, then a uniform choice) and of the others, both in random order (1.2.7)."""
    order = np.concatenate([[0], rng.permutation(depth - 1) + 1])
    return order[:clusters], order[clusters:]


def residue_profile(rows: np.ndarray) -> np.ndarray:
    """Frequencies of the 22 types in each column: uint8 [depth, N_res] -> float32 [N_res, 22]."""
    depth, length = rows.shape
    counts = np.zeros((length, N_TYPES), np.int64)
    for start in range(0, depth, 256):  # a block at a time, so that the cell numbers stay in the cache
        cells = rows[start : start + 256] + np.arange(length) * N_TYPES
        counts += np.bincount(cells.ravel(), minlength=length * N_TYPES).reshape(length, N_TYPES)
    return (counts / np.float32(depth)).astype(np.float32)
