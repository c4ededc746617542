"""A stored chain becomes network input: ``make_sample`` (cropped, masked, compact) and ``inference_cycles`` (the whole chain, expanded).

Everything is a pure function of the record, the config and a seed. The MSA rows that survive, the other choices of the sample (crop,
clamping, templates) and those of each pass (cluster centres, masking) draw from streams of their own: the rows are known before anything is
read, and pass k is the same however many passes follow.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..errors import FoldlineError
from .compact import CyclePart, Sample, alone, expand, expand_features
from .config import FeatureConfig
from .features.clusters import count_clusters, nearest_clusters, pack_rows
from .features.crop import crop_indices
from .features.masking import mask_msa
from .features.msa import keep_after_block_deletion, keep_at_random, merge_msas, residue_profile, split_rows, take_rows
from .features.targets import make_targets
from .features.templates import choose_templates, template_features
from .types import ChainRecord, FeatureBatch, TrainBatch

_SAMPLE_STREAM, _FIRST_CYCLE_STREAM = 0, 1
_ROWS_STREAM = 1  # under _SAMPLE_STREAM


class _Alignment(NamedTuple):
    """The rows a sample may draw from, in the columns of its crop, with what every pass reuses."""

    rows: np.ndarray  # uint8 [depth, N_res]
    deletions: np.ndarray  # uint8 [depth, N_res]
    planes: np.ndarray  # bit planes of rows
    profile: np.ndarray  # float32 [N_res, 22]


class _Cycle(NamedTuple):
    """One pass, and what its masking asks for."""

    part: CyclePart
    true_msa: np.ndarray
    bert_mask: np.ndarray


def choose_rows(depth: int, source: str, config: FeatureConfig, seed: int) -> np.ndarray:
    """The rows of an alignment of ``depth`` rows that a training sample may see, rising: what is left after block deletion (Algorithm 1)
    and, of a distillation entry, a uniform choice. Row 0 is always there. Known from the index alone, so that no other row need be read.
    """
    rng = np.random.default_rng([seed, _SAMPLE_STREAM, _ROWS_STREAM])
    keep = keep_after_block_deletion(depth, config.block_delete_fraction, config.block_delete_count, rng)
    return keep[keep_at_random(len(keep), config.distillation_max_msa, rng)] if source == "distillation" else keep


def make_sample(record: ChainRecord, config: FeatureConfig, seed: int, n_cycles: int, position: int = 0) -> Sample:
    """One training sample of a record that holds the rows of ``choose_rows`` alone.

    All passes see the same crop; each has its own MSA rows and masking; the targets' ``true_msa`` and ``bert_mask`` are the last pass's.
    ``position`` is the sample's place in the run's order. Raises FoldlineError for an alignment that does not fit its chain.
    """
    _check(record, seed, n_cycles)
    rng = np.random.default_rng([seed, _SAMPLE_STREAM])
    clamped = bool(rng.random() < config.clamped_fape_fraction)
    residues = _columns(crop_indices(record, config.crop_size, config.crop_mode, clamped, rng))
    available = 0 if record.templates is None else len(record.templates.aatype)
    chosen = choose_templates(available, config.max_templates, config.template_pool, rng)
    alignment = _alignment(record, residues)
    cycles = [_cycle(alignment, config, config.masked_msa_fraction, seed, k) for k in range(n_cycles)]
    return Sample(
        chain=_chain_fields(record, residues, chosen),
        cycles=tuple(cycle.part for cycle in cycles),
        targets=make_targets(record, residues, cycles[-1].true_msa, cycles[-1].bert_mask, clamped, config.distillation_min_plddt),
        sizes={
            "N_res": config.crop_size,
            "N_clust": config.max_msa_clusters,
            "N_extra": config.max_extra_msa,
            "N_templ": max(1, config.max_templates),
        },
        position=position,
    )


def training_sample(record: ChainRecord, config: FeatureConfig, seed: int, n_cycles: int, position: int = 0) -> TrainBatch:
    """``make_sample`` of a whole record, expanded: numpy, without a batch dimension, padded to the sizes of ``config``."""
    _check(record, seed, n_cycles)
    keep = choose_rows(sum(len(msa.rows) for msa in record.msas), record.metadata.source, config, seed)
    sample = make_sample(replace(record, msas=take_rows(record.msas, keep)), config, seed, n_cycles, position)
    cycles, targets, places = expand([sample])
    return TrainBatch(tuple(alone(features) for features in cycles), alone(targets), places[0])


def inference_cycles(record: ChainRecord, config: FeatureConfig, seed: int, n_cycles: int) -> tuple[FeatureBatch, ...]:
    """The whole chain's features for ``n_cycles`` passes, numpy, without a batch dimension and without padding.

    N_clust is the smaller of the alignment's depth and ``max_msa_clusters``; N_extra and N_templ are at least 1, one row of mask 0 where
    there is nothing to show. The best ``max_templates`` templates are used. Raises FoldlineError as ``make_sample`` does.
    """
    _check(record, seed, n_cycles)
    residues = slice(0, len(record.sequence))
    available = 0 if record.templates is None else len(record.templates.aatype)
    chain = _chain_fields(record, residues, np.arange(min(available, config.max_templates)))
    alignment = _alignment(record, residues)
    cycles = tuple(_cycle(alignment, config, config.inference_masked_msa_fraction, seed, k).part for k in range(n_cycles))
    sizes = {
        "N_res": residues.stop,
        "N_clust": len(cycles[0].centres),
        "N_extra": max(1, len(cycles[0].extra)),
        "N_templ": len(chain["template_mask"]),
    }
    return tuple(alone(features) for features in expand_features([Sample(chain, cycles, {}, sizes)]))


def _columns(residues: np.ndarray) -> slice | np.ndarray:
    """The same residues as a slice where they are a window: slicing columns copies them ten times faster than choosing them."""
    first, last = int(residues[0]), int(residues[-1])
    return slice(first, last + 1) if last - first + 1 == len(residues) else residues


def _alignment(record: ChainRecord, residues: slice | np.ndarray) -> _Alignment:
    rows, deletions = (np.ascontiguousarray(cells[:, residues]) for cells in merge_msas(record.msas))
    return _Alignment(rows, deletions, pack_rows(rows), residue_profile(rows))


def _chain_fields(record: ChainRecord, residues: slice | np.ndarray, chosen: np.ndarray) -> dict[str, np.ndarray]:
    aatype = record.aatype[residues]
    ids = {name: np.full(len(aatype), getattr(record.metadata, name), np.int32) for name in ("asym_id", "entity_id", "sym_id")}
    templates = template_features(record.templates, chosen, residues, len(aatype))
    return {"aatype": aatype, "residue_index": record.residue_index[residues], **ids, **templates}


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
    other_rows, other_deletions = rows[others], deletions[others]
    counts = count_clusters(centres, chosen_deletions, other_rows, other_deletions, nearest)
    shown = config.max_extra_msa  # the others are in random order
    return _Cycle(CyclePart(centres, chosen_deletions, counts, other_rows[:shown], other_deletions[:shown]), true_msa, bert_mask)


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
