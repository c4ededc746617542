"""Ranks that all others wait for: found from what every rank spends on its own, which travels with the reduction of each step.

Own is what no other rank can lengthen: waiting for data, and the forward pass. The backward pass holds the reductions. At ZeRO 3 the
forward pass gathers weights and so takes equally long everywhere; there only waiting for data tells ranks apart.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..cluster.ranks import RankInfo

WINDOW, ENOUGH = 20, 10  # steps that count, and with how many a rank may be named
FACTOR, LEAST = 1.5, 0.02  # times the median of the others, and seconds above it, that make a straggler
RECOVERED = 1.2
AGAIN = 500  # steps after which one that stays slow is named again


class Own(NamedTuple):
    """Seconds of one rank's step."""

    data: float
    forward: float

    @classmethod
    def of(cls, times: Mapping[str, float]) -> Own:
        """From a step's ``time/*``."""
        return cls(times["time/data_wait"] + times["time/host_to_device"], times["time/forward"])


def slots(mine: Own, rank: int, world: int) -> list[float]:
    """Zeros but for this rank's two places: the sum over ranks holds everybody's."""
    values = [0.0] * (2 * world)
    values[2 * rank : 2 * rank + 2] = mine
    return values


def everybody(values: Sequence[float]) -> list[Own]:
    """The ranks' own times from the summed slots."""
    return [Own(*values[i : i + 2]) for i in range(0, len(values), 2)]


class Stragglers:
    """Follows the own times of all ranks; each rank comes to the same."""

    def __init__(self, places: Sequence[RankInfo]) -> None:
        self._news: list[str] = []
        self._places = places
        self._window: deque[np.ndarray] = deque(maxlen=WINDOW)
        self._named: dict[int, int] = {}  # rank -> step

    def seen(self, step: int, paces: Sequence[Own]) -> dict[str, float]:
        """``straggler/*`` of the last steps: the slowest rank, and its time over the median of the others'. {} with a single rank."""
        if len(paces) < 2 or not any(sum(pace) for pace in paces):
            return {}
        self._window.append(np.asarray(paces))
        data, forward = np.median(np.stack(self._window), axis=0).T  # [ranks] each
        own = np.median(np.stack(self._window).sum(-1), axis=0)
        slowest = int(own.argmax())
        others = statistics.median(float(value) for rank, value in enumerate(own) if rank != slowest)
        factor = float(own[slowest]) / max(others, 1e-9)
        if len(self._window) >= ENOUGH and self._to_be_named(step, slowest, factor, float(own[slowest]) - others):
            place = self._places[slowest]
            where = f"{data[slowest]:.3f} s for data, {forward[slowest]:.3f} s in the forward pass"
            usual = f"others {_median(data, slowest):.3f} s and {_median(forward, slowest):.3f} s"
            self._news.append(
                f"step {step}: all ranks wait for rank {slowest} on {place.host}: {own[slowest]:.3f} s of its own per step, the median of "
                f"the others is {others:.3f} s ({where}; {usual}); look at that host's load, clocks and way to the store"
            )
        return {"straggler/rank": float(slowest), "straggler/slowdown": factor}

    def news(self) -> list[str]:
        """Lines since the last call."""
        lines, self._news = self._news, []
        return lines

    def _to_be_named(self, step: int, slowest: int, factor: float, above: float) -> bool:
        if factor < RECOVERED:
            self._named.clear()
        if factor <= FACTOR or above <= LEAST or step - self._named.get(slowest, -AGAIN) < AGAIN:
            return False
        self._named[slowest] = step
        return True


def _median(values: np.ndarray, without: int) -> float:
    return float(np.median(np.delete(values, without)))
