"""Which chain is seen when: a pure function of the run's seed and the position in its order.

Positions count samples over the whole run, so neither the number of ranks nor of workers nor a restart changes who is at a position. The
number of recycling passes is a function of the seed and the step, so all ranks draw the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import FoldlineError
from .config import DataConfig
from .filters import Candidate, reason_to_drop

_CHAIN_STREAM, _SEED_STREAM, _CYCLES_STREAM = 0, 1, 2
_SHORT, _LONG = 256, 512  # residues between which a chain's weight grows with its length (AF2 supplement 1.2.5)
_SEED_LIMIT = 2**63


class SampleTask(NamedTuple):
    """Everything a worker needs to make one sample."""

    position: int
    chain_id: str
    seed: int
    n_cycles: int


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

    def _rng(self, stream: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, index])


def make_order(candidates: Sequence[Candidate], data: DataConfig, max_recycles: int) -> SampleOrder:
    """Filter ``candidates`` by ``data`` and weigh the rest: metadata weight x clamp(length, 256, 512) / 512 (AF2 supplement 1.2.5).

    With experimental and distillation chains both present, distillation ones together get ``data.distillation_fraction`` of the samples.
    Raises FoldlineError with the counts by reason when none is left.
    """
    reasons: Counter[str] = Counter()
    kept: list[Candidate] = []
    for candidate in candidates:
        reason = reason_to_drop(candidate, data)
        if reason:
            reasons[reason] += 1
        else:
            kept.append(candidate)
    if not kept:
        counts = ", ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items())) or "the list is empty"
        raise FoldlineError(f"none of {len(candidates)} chains can be trained on: {counts}; add chains or relax these limits")
    weights = np.array([k.metadata.weight * min(max(k.length, _SHORT), _LONG) / _LONG for k in kept], np.float64)
    distilled = np.array([k.metadata.source == "distillation" for k in kept])
    if distilled.any() and not distilled.all():
        weights[distilled] *= data.distillation_fraction / weights[distilled].sum()
        weights[~distilled] *= (1.0 - data.distillation_fraction) / weights[~distilled].sum()
    cumulative = np.cumsum(weights)
    return SampleOrder(tuple(k.metadata.chain_id for k in kept), cumulative / cumulative[-1], data.seed, max_recycles)
