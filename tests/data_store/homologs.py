"""Real sequences related to a stored chain: the rows of its alignment."""

from __future__ import annotations

import numpy as np

from foldline.data_store.residues import GAP, decode_sequence, encode_sequence
from foldline.data_store.types import ChainMetadata, ChainRecord, Msa


def homologs(record: ChainRecord, least: float, most: float, count: int) -> list[str]:
    """Up to ``count`` aligned sequences whose identity to the query lies within ``least`` .. ``most``, over 90 % of it."""
    rows = record.msas[0].rows[1:]
    aligned = rows != GAP
    identity = (rows == record.aatype).sum(1) / np.maximum(aligned.sum(1), 1)
    fits = (aligned.mean(1) >= 0.9) & (identity >= least) & (identity <= most)
    return [decode_sequence(row[row != GAP]) for row in rows[fits][:count]]


def sequence_record(chain_id: str, sequence: str, **metadata: str) -> ChainRecord:
    """A chain of which nothing but the sequence is known."""
    aatype, length = encode_sequence(sequence), len(sequence)
    return ChainRecord(
        metadata=ChainMetadata(chain_id, **metadata),
        sequence=sequence,
        aatype=aatype,
        residue_index=np.arange(length, dtype=np.int32),
        positions=np.zeros((length, 37, 3), np.float32),
        mask=np.zeros((length, 37), np.uint8),
        msas=(Msa("query", aatype[None].astype(np.uint8), np.zeros((1, length), np.uint8)),),
    )
