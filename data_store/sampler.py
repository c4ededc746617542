"""Which chain is seen when: a pure function of the run's seed and the position in its order.

Positions count samples over the whole run, so neither the number of ranks nor of workers nor a restart changes who is at a position. The
number of recycling passes is a function of the seed and the step, so all ranks draw the same.

Chains are drawn with replacement, as AF2 accepts chains at random: in an epoch, which is as many draws as there are chains, some come up
twice and some not at all. So a chain's frequency is its weight exactly, and no list has to be shuffled or kept.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import FoldlineError
from .chain_clusters import with_clusters
from .chain_table import ChainTable, read_chain_table
from .config import DataConfig, FeatureConfig
from .filters import Split, split_chains
from .store import Store

_log = logging.getLogger(__name__)
_AF2_DISTILLATION = 0.75  # of the samples (AF2 supplement 1.3)
_CHAIN_STREAM, _SEED_STREAM, _CYCLES_STREAM = 0, 1, 2
_SHORT, _LONG = 256, 512  # residues between which a chain's weight grows with its length (AF2 supplement 1.2.5)
_SEED_LIMIT = 2**63


class SampleTask(NamedTuple):
    """Everything a worker needs to make one sample."""

    position: int
    chain_id: str
    seed: int
    n_cycles: int


class Cursor(NamedTuple):
    """Where a run stands: the samples and the micro-batches per rank that lie behind it."""

    position: int = 0
    step: int = 0


@dataclass(frozen=True)
class SampleOrder:
    """The endless order of samples. ``cumulative`` float64 [N_chains] are the running probabilities of ``chain_ids``."""

    chain_ids: tuple[str, ...]
    cumulative: np.ndarray
    seed: int
    max_recycles: int

    def chain_at(self, position: int) -> str:
        """The chain at ``position``, drawn with replacement."""
        draw = self._rng(_CHAIN_STREAM, position).random()
        return self.chain_ids[min(int(np.searchsorted(self.cumulative, draw, side="right")), len(self.chain_ids) - 1)]

    def seed_at(self, position: int) -> int:
        """The seed of the sample at ``position``: the same chain looks different each time it comes up."""
        return int(self._rng(_SEED_STREAM, position).integers(0, _SEED_LIMIT))

    def n_cycles(self, step: int) -> int:
        """Passes through the network in training step ``step``: uniform over 1..max_recycles + 1 (AF2 supplement 1.10)."""
        return int(self._rng(_CYCLES_STREAM, step).integers(1, self.max_recycles + 2))

    def task(self, position: int, step: int) -> SampleTask:
        """The sample at ``position``, which training step ``step`` uses."""
        return SampleTask(position, self.chain_at(position), self.seed_at(position), self.n_cycles(step))

    def place(self, position: int) -> tuple[int, int]:
        """(epoch, sample of the epoch), both from 0."""
        return divmod(position, len(self.chain_ids))

    def share(self, cursor: Cursor, rank: int, world: int, micro_batch: int, accumulate: int = 1) -> Iterator[SampleTask]:
        """The samples of one rank from ``cursor`` on, without end; each step the ranks together take the next world x micro_batch.

        ``accumulate`` steps in a row have the same number of passes: they are one step of the optimizer. Whoever saved the cursor may go on
        with another ``world`` or ``micro_batch``: the order of chains stays what it was.
        """
        position, step = cursor
        while True:
            first = position + rank * micro_batch
            yield from (self.task(p, step // accumulate) for p in range(first, first + micro_batch))
            position, step = position + world * micro_batch, step + 1

    def _rng(self, stream: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, index])


def open_order(store_path: Path | str, data: DataConfig, features: FeatureConfig) -> SampleOrder:
    """The order in which a run over the store at ``store_path`` sees its chains.

    Raises FoldlineError when there is no store, for ids, methods or files that ``data`` names and that are not there, and, with the counts
    by reason, for settings under which no chain is left or one of the two kinds that are to be mixed.
    """
    chains = with_clusters(read_chain_table(Store.open(store_path)), data.clusters)
    try:
        return make_order(chains, data, features.max_recycles)
    except FoldlineError as error:
        raise FoldlineError(f"{store_path}: {error}") from None


def make_order(chains: ChainTable, data: DataConfig, max_recycles: int) -> SampleOrder:
    """Split, filter and weigh ``chains`` by ``data``. Raises FoldlineError with the counts by reason when none can be trained on."""
    split = split_chains(chains, data)
    weights = sampling_weights(chains, split, data)
    rows, weights = split.train[weights > 0], weights[weights > 0]
    cumulative = np.cumsum(weights)
    _log.info("training on %d of %d chains; not on %s", len(rows), len(chains.chain_id), _counts(split))
    return SampleOrder(tuple(chains.chain_id[rows].tolist()), cumulative / cumulative[-1], data.seed, max_recycles)


def sampling_weights(chains: ChainTable, split: Split, data: DataConfig) -> np.ndarray:
    """float64 [N_train], adding up to 1: metadata weight x clamp(length, 256, 512) / 512 / cluster size (AF2 supplement 1.2.5).

    Clusters are counted over ``split.train`` alone: what is filtered away or held out takes nothing from the chains that are left.
    Distillation entries together get ``data.distillation_fraction`` of the samples; where it is not given, 0.75 when there are both kinds,
    and the one kind gets all otherwise. FoldlineError when a kind that is to get samples has no chain.
    """
    train = split.train
    if not len(train):
        total = sum(split.reasons.values())
        raise FoldlineError(f"none of {total} chains can be trained on: {_counts(split)}; add chains or relax these limits")
    weights = chains.weight[train] * np.clip(chains.length[train], _SHORT, _LONG) / _LONG / _cluster_sizes(chains.cluster_id[train])
    distilled = chains.is_distilled[train]
    fraction = data.distillation_fraction
    if fraction is None:
        fraction = _AF2_DISTILLATION if distilled.any() and not distilled.all() else float(distilled.any())
    for name, kind, rate in (("distillation", distilled, fraction), ("experimental", ~distilled, 1.0 - fraction)):
        if rate > 0 and not kind.any():
            raise FoldlineError(
                f"data.distillation_fraction = {fraction} gives {rate:.0%} of the samples to {name} entries, but none can be trained on: "
                f"{_counts(split)}; add some, relax these limits, or set it to {0 if name == 'distillation' else 1}"
            )
        if kind.any():
            weights[kind] *= rate / weights[kind].sum()
    return np.asarray(weights, np.float64)


def _cluster_sizes(cluster_ids: np.ndarray) -> np.ndarray:
    """How many chains share each chain's cluster; one without a cluster is alone."""
    _, inverse, counts = np.unique(cluster_ids, return_inverse=True, return_counts=True)
    return np.where(cluster_ids == "", 1, counts[inverse])


def _counts(split: Split) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in sorted(split.reasons.items())) or "the list is empty"
