"""Which chains a run may train on, decided over whole columns and without reading a record (AF2 supplement 1.2.5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..errors import FoldlineError
from ..settings import nearest
from .chain_table import ChainTable
from .config import DataConfig
from .holdout import held_out_reasons, left_out_reasons

# What the PDB's _exptl.method may say.
_METHODS = (
    "X-RAY DIFFRACTION",
    "ELECTRON MICROSCOPY",
    "SOLUTION NMR",
    "SOLID-STATE NMR",
    "NEUTRON DIFFRACTION",
    "ELECTRON CRYSTALLOGRAPHY",
    "FIBER DIFFRACTION",
    "POWDER DIFFRACTION",
    "SOLUTION SCATTERING",
    "EPR",
    "FLUORESCENCE TRANSFER",
    "INFRARED SPECTROSCOPY",
    "THEORETICAL MODEL",
)


class Split(NamedTuple):
    """The chains of a store by what a run does with them."""

    train: np.ndarray  # int64, rows of the table, rising
    held_out: np.ndarray  # int64: validation chains and all that a hold-out rule names; disjoint from ``train``
    reasons: Counter[str]  # why chains that could have been trained on are not, with how many


def split_chains(chains: ChainTable, data: DataConfig) -> Split:
    """Apply the hold-out rules and the filters of ``data``; a chain that breaks several rules counts for the first alone.

    Only chains of ``data.train`` count, where it names any. Raises FoldlineError for ids and methods that are not known and for hold-out
    files that cannot be read.
    """
    held = held_out_reasons(chains, data)
    reasons = np.where(held != "", held, left_out_reasons(chains, held != "", data))
    for breaks, reason in _rules(chains, data):
        reasons[(reasons == "") & breaks] = reason
    asked = np.zeros(len(chains.chain_id), bool)
    asked[chains.rows_of(data.train, "data.train") if data.train else slice(None)] = True
    train = np.flatnonzero(asked & (reasons == ""))
    dropped = Counter(reasons[asked & (reasons != "")].tolist())
    return Split(train, np.flatnonzero(held != ""), dropped)


def _rules(chains: ChainTable, data: DataConfig) -> Iterator[tuple[np.ndarray, str]]:
    """Each filter as (the chains that break it, why they are dropped)."""
    measured = ~chains.is_distilled
    if data.sources:
        yield ~np.isin(chains.source, data.sources), f"source not in data.sources = {', '.join(data.sources)}"
    if data.methods:
        yield measured & ~_has_method(chains.method, data.methods), f"method not in data.methods = {', '.join(data.methods)}"
    yield chains.resolution > data.max_resolution, f"resolution above data.max_resolution = {data.max_resolution} Å"
    too_uniform = chains.largest_share > np.float32(data.max_single_residue)  # the column is float32: 80 % must not exceed 0.8
    yield too_uniform, f"one residue type in more than data.max_single_residue = {data.max_single_residue} of the chain"
    yield chains.length < data.min_length, f"shorter than data.min_length = {data.min_length}"
    if data.max_length:
        yield chains.length > data.max_length, f"longer than data.max_length = {data.max_length}"
    dated = chains.release_date != ""
    if data.released_from or data.released_until:
        yield measured & ~dated, "no release date, which data.released_from and released_until ask for"
    if data.released_from:
        yield measured & (chains.release_date < data.released_from), f"released before data.released_from = {data.released_from}"
    if data.released_until:
        yield measured & (chains.release_date > data.released_until), f"released after data.released_until = {data.released_until}"
    yield ~(np.isfinite(chains.weight) & (chains.weight > 0)), "weight not above 0"


def _has_method(methods: np.ndarray, wanted: tuple[str, ...]) -> np.ndarray:
    """Which entries used one of ``wanted``; an entry may name several methods. FoldlineError for a name nobody uses."""
    names, inverse = np.unique(methods, return_inverse=True)
    used = [{part.strip().upper() for part in name.replace(";", ",").split(",")} for name in names.tolist()]
    known = sorted({*_METHODS, *(part for parts in used for part in parts if part)})
    for name in wanted:
        if name.upper() not in known:
            raise FoldlineError(f"data.methods: no experiment is called '{name}'; {nearest(name.upper(), known)}")
    fits = {name.upper() for name in wanted}
    return np.array([bool(parts & fits) for parts in used], bool)[inverse]
