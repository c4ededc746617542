"""The columns of a store that decide which chains are trained on and how often: one row per chain, no record read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import FoldlineError
from ..settings import nearest
from .store import Store


class ChainTable(NamedTuple):
    """One row per chain, every column [N_chains]; text columns are numpy strings."""

    chain_id: np.ndarray
    length: np.ndarray  # residues
    largest_share: np.ndarray  # of the most frequent residue type, 0..1
    resolution: np.ndarray  # ångström, 0 = not known
    weight: np.ndarray
    release_date: np.ndarray  # ISO, "" = not known
    method: np.ndarray
    source: np.ndarray  # "experimental" or "distillation"
    pdb_id: np.ndarray
    cluster_id: np.ndarray  # "" = alone in its cluster

    @property
    def is_distilled(self) -> np.ndarray:
        """bool [N_chains]: predicted, not measured."""
        return np.asarray(self.source == "distillation")

    def rows_of(self, names: Sequence[str], where: str) -> np.ndarray:
        """The rows of the chains ``names``. FoldlineError for one that the store lacks, which names ``where`` it was asked for."""
        rows = {name: row for row, name in enumerate(self.chain_id.tolist())} if names else {}
        missing = [name for name in names if name not in rows]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise FoldlineError(
                f"{where}: the store has no chain '{missing[0]}'{more}; {nearest(missing[0], _few(missing[0], list(rows)))}"
            )
        return np.array([rows[name] for name in names], np.int64)


def read_chain_table(store: Store) -> ChainTable:
    """The table of all chains of ``store``, in its order, from the index alone."""
    index = store.index
    text = {name: np.array(list(index.text[name]), dtype=np.str_) for name in ("release_date", "method", "source", "pdb_id", "cluster_id")}
    numbers = {name: index.numbers[name] for name in ("largest_share", "resolution", "weight")}
    return ChainTable(chain_id=np.array(store.chain_ids, dtype=np.str_), length=store.lengths, **numbers, **text)


def _few(name: str, valid: list[str]) -> list[str]:
    """The names to look for a near one in: of a large store only those that begin alike, or the search would take minutes."""
    return valid if len(valid) <= 10_000 else [v for v in valid if v[:2].lower() == name[:2].lower()] or valid
