"""The network's input features made of residues and deletions (AF2 supplement 1.2.9, table 1)."""

from __future__ import annotations

import numpy as np

from .clusters import N_CLASSES
from .msa import cells_with_deletions

_HAS_DELETION = N_CLASSES
_DELETION_VALUE = N_CLASSES + 1
PROFILE = slice(N_CLASSES + 2, 2 * N_CLASSES + 2)
_DELETION_MEAN = 2 * N_CLASSES + 2
MSA_FEAT_SIZE = 2 * N_CLASSES + 3
N_AATYPES = 21


def deletion_value(deletions: np.ndarray) -> np.ndarray:
    """Deletion counts of any shape -> (2 / pi) atan(d / 3), float32 in 0..1."""
    value: np.ndarray = _DELETION_VALUES[deletions] if deletions.dtype == np.uint8 else _squash(deletions)
    return value


def fill_msa_feat(feat: np.ndarray, centres: np.ndarray, deletions: np.ndarray, deletion_mean: np.ndarray) -> None:
    """Write the corner of ``feat`` that the centres cover: one-hot residue (23), has_deletion, deletion_value, deletion mean value.

    ``feat`` float32 [>= N_clust, >= N_res, 49], zeros, contiguous; its columns ``PROFILE`` are left to ``cluster_means``. ``centres`` uint8
    after masking, ``deletions`` uint8 and ``deletion_mean`` float32 are [N_clust, N_res].
    """
    n_clusters, n_res = centres.shape
    cells = (np.arange(n_clusters)[:, None] * feat.shape[1] + np.arange(n_res)) * MSA_FEAT_SIZE
    feat.reshape(-1)[cells + centres] = 1.0
    corner = feat[:n_clusters, :n_res]
    corner[..., _HAS_DELETION] = deletions > 0
    corner[..., _DELETION_VALUE] = deletion_value(deletions)
    corner[..., _DELETION_MEAN] = deletion_value(deletion_mean)


def fill_deletions(has_deletion: np.ndarray, value: np.ndarray, deletions: np.ndarray) -> None:
    """Write where ``deletions`` uint8 [N_extra, N_res] has some into the corners of both, float32 zeros [>= N_extra, >= N_res]."""
    cells = cells_with_deletions(deletions)
    places = np.divmod(cells, deletions.shape[1])
    has_deletion[places] = 1.0
    value[places] = _DELETION_VALUES[deletions.reshape(-1)[cells]]


def make_target_feat(aatype: np.ndarray) -> np.ndarray:
    """float32 [N_res, 22]: the between-segment flag (0: a chain has one segment), then the one-hot residue type (21)."""
    feat = np.zeros((len(aatype), 1 + N_AATYPES), np.float32)
    feat[np.arange(len(aatype)), 1 + aatype.astype(np.int64)] = 1.0
    return feat


def _squash(deletions: np.ndarray) -> np.ndarray:
    return (np.arctan(deletions.astype(np.float32) / np.float32(3.0)) * np.float32(2.0 / np.pi)).astype(np.float32)


_DELETION_VALUES = _squash(np.arange(256))  # of every count that a store can hold
