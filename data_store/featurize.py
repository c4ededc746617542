"""A stored chain becomes network input: ``training_sample`` (cropped, masked, padded) and ``inference_cycles`` (the whole chain).

Everything is a pure function of the record, the config and a seed. Choices of the sample (crop, clamping, block deletion, templates) and of
each pass (MSA rows, masking) draw from streams of their own, so pass k is the same however many passes follow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import FoldlineError
from .config import FeatureConfig
from .features.clusters import nearest_clusters, pack_rows, summarize_clusters
from .features.crop import crop_window, pad
from .features.masking import mask_msa
from .features.msa import keep_after_block_deletion, keep_at_random, merge_msas, residue_profile, split_rows
from .features.msa_feat import deletion_value, make_msa_feat, make_target_feat
from .features.targets import make_targets
from .features.templates import choose_templates, template_features
from .types import ChainRecord, FeatureBatch, TrainBatch

_SAMPLE_STREAM, _FIRST_CYCLE_STREAM = 0, 1


class _Alignment(NamedTuple):
    """The rows a sample may draw from, in its window of columns, with what every pass reuses."""

    rows: np.ndarray  # uint8 [depth, N_res]
    deletions: np.ndarray  # uint8 [depth, N_res]
    planes: np.ndarray  # bit planes of rows
    profile: np.ndarray  # float32 [N_res, 22]


class _Cycle(NamedTuple):
    """The MSA features of one pass, as fields of FeatureBatch, and its masking targets."""

    features: dict[str, np.ndarray]
    true_msa: np.ndarray
    bert_mask: np.ndarray


def training_sample(record: ChainRecord, config: FeatureConfig, seed: int, n_cycles: int, position: int = 0) -> TrainBatch:
    """One training sample without a batch dimension, numpy, padded to the sizes of ``config``.

    All passes see the same crop; each has its own MSA rows and masking; the targets' ``true_msa`` and ``bert_mask`` are the last pass's.
    ``position`` is the sample's place in the run's order. Raises FoldlineError for an alignment that does not fit its chain.
    """
    _check(record, seed, n_cycles)
    rng = np.random.default_rng([seed, _SAMPLE_STREAM])
    clamped = bool(rng.random() < config.clamped_fape_fraction)
    residues = crop_window(len(record.sequence), config.crop_size, clamped, rng)
    available = 0 if record.templates is None else len(record.templates.aatype)
    chosen = choose_templates(available, config.max_templates, config.template_pool, rng)
    alignment = _training_alignment(record, config, residues, rng)
    fixed = _chain_features(record, residues) | template_features(record.templates, chosen, residues, residues.stop - residues.start)
    cycles = [_cycle(alignment, config, config.masked_msa_fraction, seed, k) for k in range(n_cycles)]
    targets = make_targets(record, residues, cycles[-1].true_msa, cycles[-1].bert_mask, clamped, config.distillation_min_plddt)
    sizes = {
        "N_res": config.crop_size,
        "N_clust": config.max_msa_clusters,
        "N_extra": config.max_extra_msa,
        "N_templ": max(1, config.max_templates),
    }
    batches = tuple(pad(FeatureBatch(**fixed, **cycle.features), sizes) for cycle in cycles)
    return TrainBatch(batches, pad(targets, sizes), np.array(position, np.int64))


def inference_cycles(record: ChainRecord, config: FeatureConfig, seed: int, n_cycles: int) -> tuple[FeatureBatch, ...]:
    """The whole chain's features for ``n_cycles`` passes, numpy, without a batch dimension and without padding.

    N_clust is the smaller of the alignment's depth and ``max_msa_clusters``; N_extra and N_templ are at least 1, one row of mask 0 where
    there is nothing to show. The best ``max_templates`` templates are used. Raises FoldlineError as ``training_sample`` does.
    """
    _check(record, seed, n_cycles)
    residues = slice(0, len(record.sequence))
    available = 0 if record.templates is None else len(record.templates.aatype)
    chosen = np.arange(min(available, config.max_templates))
    alignment = _alignment(*merge_msas(record.msas), residues)
    fixed = _chain_features(record, residues) | template_features(record.templates, chosen, residues, residues.stop)
    cycles = [_cycle(alignment, config, config.inference_masked_msa_fraction, seed, k) for k in range(n_cycles)]
    return tuple(FeatureBatch(**fixed, **cycle.features) for cycle in cycles)


def _training_alignment(record: ChainRecord, config: FeatureConfig, residues: slice, rng: np.random.Generator) -> _Alignment:
    rows, deletions = merge_msas(record.msas)
    keep = keep_after_block_deletion(len(rows), config.block_delete_fraction, config.block_delete_count, rng)
    if record.metadata.source == "distillation":
        keep = keep[keep_at_random(len(keep), config.distillation_max_msa, rng)]
    return _alignment(rows[keep], deletions[keep], residues)


def _alignment(rows: np.ndarray, deletions: np.ndarray, residues: slice) -> _Alignment:
    rows = np.ascontiguousarray(rows[:, residues])
    return _Alignment(rows, np.ascontiguousarray(deletions[:, residues]), pack_rows(rows), residue_profile(rows))


def _chain_features(record: ChainRecord, residues: slice) -> dict[str, np.ndarray]:
    aatype = record.aatype[residues].astype(np.int64)
    ids = {name: np.full(len(aatype), getattr(record.metadata, name), np.int64) for name in ("asym_id", "entity_id", "sym_id")}
    return {
        "aatype": aatype,
        "residue_index": record.residue_index[residues].astype(np.int64),
        "seq_mask": np.ones(len(aatype), np.float32),
        "target_feat": make_target_feat(aatype),
        **ids,
    }


def _cycle(alignment: _Alignment, config: FeatureConfig, masked_fraction: float, seed: int, cycle: int) -> _Cycle:
    rng = np.random.default_rng([seed, _FIRST_CYCLE_STREAM + cycle])
    rows, deletions, planes, profile = alignment
    chosen, others = split_rows(len(rows), config.max_msa_clusters, rng)
    true_msa, chosen_deletions = rows[chosen], deletions[chosen]
    centres, bert_mask = mask_msa(
        true_msa,
        profile,
        masked_fraction,
        config.mask_uniform_probability,
        config.mask_profile_probability,
        config.mask_same_probability,
        rng,
    )
    nearest = nearest_clusters(planes, centres)[others] if len(others) else others
    summary = summarize_clusters(centres, chosen_deletions, rows[others], deletions[others], nearest)
    extra = others[: config.max_extra_msa]  # already in random order
    features = {
        "msa_feat": make_msa_feat(centres, chosen_deletions, *summary),
        "msa_mask": np.ones(centres.shape, np.float32),
        **_extra_features(rows[extra], deletions[extra]),
    }
    return _Cycle(features, true_msa, bert_mask)


def _extra_features(rows: np.ndarray, deletions: np.ndarray) -> dict[str, np.ndarray]:
    if len(rows) == 0:  # one masked row: exported graphs need at least one
        rows = deletions = np.zeros((1, rows.shape[1]), np.uint8)
        mask = np.zeros(rows.shape, np.float32)
    else:
        mask = np.ones(rows.shape, np.float32)
    return {
        "extra_msa": rows.astype(np.int64),
        "extra_has_deletion": (deletions > 0).astype(np.float32),
        "extra_deletion_value": deletion_value(deletions),
        "extra_msa_mask": mask,
    }


def _check(record: ChainRecord, seed: int, n_cycles: int) -> None:
    name, length = record.metadata.chain_id, len(record.sequence)
    if seed < 0 or n_cycles < 1:
        raise FoldlineError(f"{name}: seed {seed} must be at least 0 and the number of passes {n_cycles} at least 1")
    if length == 0 or not record.msas or len(record.msas[0].rows) == 0:
        raise FoldlineError(f"{name} has {length} residues and {len(record.msas)} alignments; a chain needs both, at least the query alone")
    for msa in record.msas:
        if msa.rows.ndim != 2 or msa.rows.shape[1] != length or msa.deletions.shape != msa.rows.shape:
            raise FoldlineError(
                f"{name}: alignment '{msa.name}' has rows {msa.rows.shape} and deletions {msa.deletions.shape}, but the chain has {length} "
                "residues; ingest it again"
            )
