"""Which chains a run may train on, decided without reading their records (AF2 supplement 1.2.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import FoldlineError
from ..settings import nearest
from .arrays import ArrayReader
from .config import DataConfig
from .store import Store
from .types import ChainMetadata

_N_AATYPES = 21


class Candidate(NamedTuple):
    """A chain that may be trained on, as far as filters and weights need to know it."""

    metadata: ChainMetadata
    length: int  # residues
    largest_share: float  # of the most frequent residue type, 0..1


def training_candidates(store: Store, data: DataConfig) -> list[Candidate]:
    """The chains of ``data.train``, or all of the store's but ``data.validation``, not yet filtered.

    Raises FoldlineError for an id that the store lacks and for unreadable residues.
    """
    chosen = training_chains(store.chain_ids, data)
    shares = dict(zip(store.chain_ids, largest_shares(store), strict=True))
    lengths = dict(zip(store.chain_ids, store.lengths.tolist(), strict=True))
    return [Candidate(store.metadata(name), lengths[name], shares[name]) for name in chosen]


def training_chains(chain_ids: Sequence[str], data: DataConfig) -> tuple[str, ...]:
    """The ids that ``data`` chooses from ``chain_ids``. FoldlineError for one that is not there."""
    known = set(chain_ids)
    for section, names in (("train", data.train), ("validation", data.validation)):
        missing = [name for name in names if name not in known]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise FoldlineError(f"data.{section}: the store has no chain '{missing[0]}'{more}; {nearest(missing[0], chain_ids)}")
    held_out = set(data.validation)
    return data.train or tuple(name for name in chain_ids if name not in held_out)


def largest_shares(store: Store) -> list[float]:
    """The share of the most frequent residue type in each chain of the store."""
    try:
        aatype = ArrayReader(store.path).whole("aatype")
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise FoldlineError(f"the residues of {store.path} cannot be read ({error}); run: foldline store verify {store.path}") from error
    starts = np.cumsum(store.lengths, dtype=np.int64) - store.lengths
    largest = np.zeros(len(starts), np.int64)
    for residue in range(_N_AATYPES):  # one type at a time: a table of all would not fit for a store of millions of residues
        np.maximum(largest, np.add.reduceat(aatype == residue, starts, dtype=np.int64), out=largest)
    return [float(share) for share in largest / store.lengths]


def reason_to_drop(candidate: Candidate, data: DataConfig) -> str:
    """Why a chain is not trained on, '' when it is."""
    metadata, _, largest_share = candidate
    if metadata.resolution > data.max_resolution:
        return f"resolution above data.max_resolution = {data.max_resolution} Å"
    if largest_share > data.max_single_residue:
        return f"one residue type in more than data.max_single_residue = {data.max_single_residue} of the chain"
    if not (np.isfinite(metadata.weight) and metadata.weight > 0):
        return "weight not above 0"
    return ""
