"""The network's input features made of residues and deletions (AF2 supplement 1.2.9, table 1)."""

from __future__ import annotations

import numpy as np

from .clusters import N_CLASSES

_HAS_DELETION = N_CLASSES
_DELETION_VALUE = N_CLASSES + 1
_PROFILE = slice(N_CLASSES + 2, 2 * N_CLASSES + 2)
_DELETION_MEAN = 2 * N_CLASSES + 2
MSA_FEAT_SIZE = 2 * N_CLASSES + 3
N_AATYPES = 21


def deletion_value(deletions: np.ndarray) -> np.ndarray:
    """Deletion counts of any shape -> (2 / pi) atan(d / 3), float32 in 0..1."""
    value: np.ndarray = _DELETION_VALUES[deletions] if deletions.dtype == np.uint8 else _squash(deletions)
    return value


def make_msa_feat(centres: np.ndarray, deletions: np.ndarray, profile: np.ndarray, deletion_mean: np.ndarray) -> np.ndarray:
    """float32 [N_clust, N_res, 49]: one-hot masked residue (23), has_deletion, deletion_value, cluster_profile (23), deletion mean value.

    ``centres`` uint8 [N_clust, N_res] after masking, ``deletions`` [N_clust, N_res], the others from ``summarize_clusters``.
    """
    feat = np.zeros((*centres.shape, MSA_FEAT_SIZE), np.float32)
    flat = feat.reshape(-1, MSA_FEAT_SIZE)
    flat[np.arange(len(flat)), centres.ravel()] = 1.0
    feat[..., _HAS_DELETION] = deletions > 0
    feat[..., _DELETION_VALUE] = deletion_value(deletions)
    feat[..., _PROFILE] = profile
    feat[..., _DELETION_MEAN] = deletion_value(deletion_mean)
    return feat


def make_target_feat(aatype: np.ndarray) -> np.ndarray:
    """float32 [N_res, 22]: the between-segment flag (0: a chain has one segment), then the one-hot residue type (21)."""
    feat = np.zeros((len(aatype), 1 + N_AATYPES), np.float32)
    feat[np.arange(len(aatype)), 1 + aatype.astype(np.int64)] = 1.0
    return feat


def _squash(deletions: np.ndarray) -> np.ndarray:
    return (np.arctan(deletions.astype(np.float32) / np.float32(3.0)) * np.float32(2.0 / np.pi)).astype(np.float32)


_DELETION_VALUES = _squash(np.arange(256))  # of every count that a store can hold
