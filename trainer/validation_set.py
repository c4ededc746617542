"""Which chains are folded to validate a run, under one hash: results under different hashes are not results of one thing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from ..data_store.store import Store
from ..settings import to_dict
from .config import RunConfig

SEED = 0  # features of validation chains are the same in every run


@dataclass(frozen=True)
class ValidationChain:
    """A chain, its ``split`` ("trained" or "validation"), its number of residues and the hex digest of its content in the store."""

    chain_id: str
    split: str
    residues: int
    digest: str


@dataclass(frozen=True)
class ValidationSet:
    """``digest`` (hex) stands for the chains' ids, splits and contents, the features made of them and the number of passes."""

    chains: tuple[ValidationChain, ...]
    digest: str

    @property
    def number(self) -> float:
        """The digest's first 48 bits: a number that the journal and MLflow can hold, and that changes with the set."""
        return float(int(self.digest[:12], 16))


def validation_set(config: RunConfig, store: Store, trained: Sequence[str]) -> ValidationSet:
    """The first ``validate.trained_chains`` of ``trained`` (the run's training chains in order) and ``data.validation``."""
    named = [(chain, "trained") for chain in trained[: config.validate.trained_chains]]
    named += [(chain, "validation") for chain in config.data.validation]
    chains = []
    for chain, split in named:
        store.metadata(chain)  # a chain that is not there is named
        row = store.index.rows[chain]
        chains.append(ValidationChain(chain, split, int(store.lengths[row]), store.index.numbers["sha256"][row].tobytes().hex()))
    content = {
        "chains": [(c.chain_id, c.split, c.digest) for c in chains],
        "features": to_dict(config.features),
        "passes": config.validate.recycles + 1,
        "seed": SEED,
    }
    return ValidationSet(tuple(chains), hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest())


def shared_out(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Which chains (places in ``lengths``) each rank folds: the longest first, each to the rank with the least work so far.

    Work grows with the square of the length. A pure function, so that ranks need not speak about it.
    """
    work, shares = [0] * ranks, [[] for _ in range(ranks)]  # type: tuple[list[int], list[list[int]]]
    for place in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        rank = work.index(min(work))
        shares[rank].append(place)
        work[rank] += lengths[place] ** 2
    return shares
