"""Alignments with planted couplings, and chains of every awkward kind, for the tests of `store show`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from foldline.data_store.residues import ATOM37_MASK, GAP, decode_sequence
from foldline.data_store.types import ChainMetadata, ChainRecord, Msa

PLANTED = ((2, 20), (5, 14), (8, 27))


def planted_rows(seed: int, depth: int = 600, length: int = 30, strength: float = 0.7) -> np.ndarray:
    """uint8 [depth, length]: random residues, except that the planted columns follow each other."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 20, (depth, length)).astype(np.uint8)
    for i, j in PLANTED:
        follows = rng.random(depth) < strength
        rows[follows, j] = rng.permutation(20)[rows[follows, i]]
    return rows


def uneven_rows(seed: int, depth: int = 500, length: int = 30) -> np.ndarray:
    """Weak couplings between conserved columns, in a family where other columns vary freely: chance correlations are larger there."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 20, (depth, length)).astype(np.uint8)
    for column in sorted({column for pair in PLANTED for column in pair} | set(range(0, length, 3))):
        rows[rng.random(depth) < 0.75, column] = rng.integers(20)
    for i, j in PLANTED:
        follows = rng.random(depth) < 0.25
        rows[follows, j] = rng.permutation(20)[rows[follows, i]]
    return rows


def chain(length: int, depth: int, seed: int = 0) -> ChainRecord:
    """A made-up chain along a coil of realistic steps, with an alignment of ``depth`` rows that mutate it."""
    rng = np.random.default_rng(seed)
    query = rng.integers(0, 20, length).astype(np.uint8)
    rows = np.where(rng.random((depth, length)) < 0.5, query, rng.integers(0, 22, (depth, length))).astype(np.uint8)
    rows[0] = query
    turn = np.arange(length) * 1.7
    path = np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), 1.5 * np.arange(length) % 60], axis=-1)
    mask = ATOM37_MASK[query].astype(np.uint8)
    positions = ((path[:, None] + rng.normal(0, 0.8, (length, 37, 3))) * mask[..., None]).astype(np.float32)
    return ChainRecord(
        metadata=ChainMetadata(f"made_{length}", title="a made-up chain"),
        sequence=decode_sequence(query),
        aatype=query.astype(np.int8),
        residue_index=np.arange(length, dtype=np.int32),
        positions=positions,
        mask=mask,
        msas=(Msa("made", rows, np.zeros_like(rows)),),
    )


def without_structure(record: ChainRecord) -> ChainRecord:
    return replace(record, positions=np.zeros_like(record.positions), mask=np.zeros_like(record.mask))


def query_alone(record: ChainRecord) -> ChainRecord:
    msa = record.msas[0]
    return replace(record, msas=(Msa(msa.name, msa.rows[:1], msa.deletions[:1]),))


def with_gap_columns(record: ChainRecord) -> ChainRecord:
    """Columns that only the query fills, and a row of nothing but gaps."""
    rows = record.msas[0].rows.copy()
    rows[1:, 3:7] = GAP
    rows[-1] = GAP
    return replace(record, msas=(Msa("gaps", rows, np.zeros_like(rows)),))


def predicted(record: ChainRecord) -> ChainRecord:
    plddt = np.linspace(20, 99, len(record.sequence)).astype(np.float32)
    return replace(record, metadata=replace(record.metadata, source="distillation"), plddt=plddt)
