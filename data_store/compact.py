"""A sample in the integers it was made of, and its expansion to the floats that the network reads.

``Sample`` is what waits in queues and crosses from a worker to the trainer: some seven times smaller than what ``expand`` makes of it, last
thing before the step (AF2 supplement 1.2.9, table 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .features.clusters import ClusterCounts, cluster_means
from .features.msa_feat import MSA_FEAT_SIZE, PROFILE, fill_deletions, fill_msa_feat, make_target_feat
from .types import FeatureBatch, Targets, TrainBatch, schema_of

B = TypeVar("B", FeatureBatch, Targets)


class CyclePart(NamedTuple):
    """The MSA of one pass. Rows and deletions are uint8, [N_clust, N_res] after masking and [N_extra, N_res]."""

    centres: np.ndarray
    centre_deletions: np.ndarray
    counts: ClusterCounts
    extra: np.ndarray
    extra_deletions: np.ndarray


class Sample(NamedTuple):
    """One sample without a batch dimension and without padding.

    ``chain`` holds the fields of ``FeatureBatch`` that are the same in every pass, without those that follow from others, ``targets`` those
    of ``Targets``, each in the type it was stored in; ``sizes`` are the dimensions to pad to.
    """

    chain: dict[str, np.ndarray]
    cycles: tuple[CyclePart, ...]
    targets: dict[str, np.ndarray]
    sizes: dict[str, int]
    position: int = 0


def expand(samples: Sequence[Sample]) -> TrainBatch:
    """numpy, int64 and float32, with a leading batch dimension, padded with zeros to the largest ``sizes``; masks are 0 there.

    What is the same in every pass is one array in all of them. ValueError when the numbers of passes differ.
    """
    targets = fill_fields(Targets, [s.targets for s in samples], _largest(samples))
    return TrainBatch(expand_features(samples), Targets(**targets), np.array([s.position for s in samples], np.int64))


def expand_features(samples: Sequence[Sample]) -> tuple[FeatureBatch, ...]:
    """The features of each pass alone, as ``expand`` gives them."""
    sizes = _largest(samples)
    shared = fill_fields(FeatureBatch, [_derived(s.chain) for s in samples], sizes)
    passes = zip(*(s.cycles for s in samples), strict=True)
    return tuple(FeatureBatch(**shared, **_msa_fields(parts, sizes)) for parts in passes)


def fill_fields(
    kind: type[FeatureBatch] | type[Targets], samples: Sequence[Mapping[str, np.ndarray]], sizes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """The fields that ``samples`` hold, as the schema of ``kind`` wants them: int64 or float32, a leading batch dimension, and zeros up to
    ``sizes`` in every dimension. A field that is larger raises ValueError.
    """
    schema = schema_of(kind)
    filled: dict[str, np.ndarray] = {}
    for name in samples[0]:
        shape = [int(sizes.get(str(dim), dim)) for dim in schema[name].dims]
        dtype: type[np.generic] = np.int64 if schema[name].kind == "int" else np.float32
        filled[name] = np.zeros([len(samples), *shape], dtype)
        for number, sample in enumerate(samples):
            _corner(filled[name][number, ...], sample[name].shape)[...] = sample[name]
    return filled


def alone(batch: B) -> B:
    """The only sample of a batch of one, without the batch dimension."""
    fields: list[Any] = [value[0] for value in batch]
    return type(batch)(*fields)


def _largest(samples: Sequence[Sample]) -> dict[str, int]:
    return {dim: max(s.sizes[dim] for s in samples) for dim in samples[0].sizes}


def _derived(chain: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    aatype = chain["aatype"]
    return {**chain, "seq_mask": np.ones(len(aatype), np.float32), "target_feat": make_target_feat(aatype)}


def _corner(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    index: tuple[Any, ...] = (..., *(slice(size) for size in shape))  # with '...' a number is a view too
    view: np.ndarray = array[index]
    return view


def _msa_fields(parts: Sequence[CyclePart], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    n_res = sizes["N_res"]
    clusters, extra = (len(parts), sizes["N_clust"], n_res), (len(parts), sizes["N_extra"], n_res)
    fields: dict[str, np.ndarray] = {
        "msa_feat": np.zeros((*clusters, MSA_FEAT_SIZE), np.float32),
        "msa_mask": np.zeros(clusters, np.float32),
        "extra_msa": np.zeros(extra, np.int64),
        "extra_has_deletion": np.zeros(extra, np.float32),
        "extra_deletion_value": np.zeros(extra, np.float32),
        "extra_msa_mask": np.zeros(extra, np.float32),
    }
    for number, part in enumerate(parts):
        out = {name: array[number] for name, array in fields.items()}
        profile = _corner(out["msa_feat"], (*part.centres.shape, MSA_FEAT_SIZE))[..., PROFILE]
        _, deletion_mean = cluster_means(part.counts, profile)
        fill_msa_feat(out["msa_feat"], part.centres, part.centre_deletions, deletion_mean)
        fill_deletions(out["extra_has_deletion"], out["extra_deletion_value"], part.extra_deletions)
        for name, rows in (("msa_mask", part.centres), ("extra_msa_mask", part.extra)):
            _corner(out[name], rows.shape)[...] = 1.0
        _corner(out["extra_msa"], part.extra.shape)[...] = part.extra
    return fields
