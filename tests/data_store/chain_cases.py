"""Chains as rows of a table, for the tests of what decides over them."""

from __future__ import annotations

from typing import Any

import numpy as np

from foldline.data_store.chain_table import ChainTable

_DEFAULTS: dict[str, Any] = {
    "length": 300,
    "largest_share": 0.1,
    "resolution": 2.0,
    "weight": 1.0,
    "release_date": "",
    "method": "",
    "source": "experimental",
    "pdb_id": "",
    "cluster_id": "",
}


def chain(name: str, **columns: float | str) -> dict[str, Any]:
    """One chain that passes every filter, but for ``columns``."""
    assert not columns.keys() - _DEFAULTS.keys()
    return {"chain_id": name, **_DEFAULTS, **columns}


def distilled(name: str, **columns: float | str) -> dict[str, Any]:
    """One entry of the self-distillation set."""
    return chain(name, **{"source": "distillation", "resolution": 0.0, **columns})


def table(*chains: dict[str, Any]) -> ChainTable:
    """The table of ``chains``, with the types that a store's columns have."""
    types = {"length": np.int32, "largest_share": np.float32, "resolution": np.float64, "weight": np.float64}
    return ChainTable(**{name: np.array([c[name] for c in chains], types.get(name, np.str_)) for name in ChainTable._fields})
