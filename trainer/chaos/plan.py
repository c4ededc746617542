"""Which faults come when: a pure function of the seed, so that the same seed gives the same faults again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ..config import RunConfig

PHASES = ("training", "saving", "starting")


@dataclass(frozen=True)
class Fault:
    """One planned fault. Its moment: ``fraction`` of ``phase`` after the job is first seen in it at or after ``step``.

    ``choice`` and ``amount`` lie in [0, 1): which rank, file, byte or signal, and how much or how long.
    """

    number: int
    kind: str
    step: int
    phase: str
    fraction: float
    choice: float
    amount: float


@dataclass(frozen=True)
class Traits:
    """What the plan must know of a kind: in which phases it may come, and whether the job always ends by it."""

    name: str
    phases: tuple[str, ...]
    ends: bool


def window(config: RunConfig) -> tuple[int, int]:
    """First and last step of a run in which a fault may come: behind the first checkpoint, and with two more to come."""
    every = config.run.checkpoint_every
    return every + 1, config.run.steps - 2 * every - 1


def draw(seed: int, count: int, kinds: Sequence[Traits], window: tuple[int, int]) -> tuple[Fault, ...]:
    """``count`` faults in the order of their steps; each kind comes equally often, but for one.

    ``starting`` is drawn only behind a fault that ends the job. Uses ``random()`` alone, the one generator that Python promises to keep.
    """
    rng = random.Random(seed)
    names = [kinds[i % len(kinds)] for i in range(count)]
    for i in reversed(range(1, count)):  # Fisher-Yates
        j = int(rng.random() * (i + 1))
        names[i], names[j] = names[j], names[i]
    first, last = window
    steps = sorted(first + int(rng.random() * (last + 1 - first)) for _ in range(count))
    faults: list[Fault] = []
    restarted = False
    for number, (kind, step) in enumerate(zip(names, steps, strict=True), 1):
        which, fraction, choice, amount = (rng.random() for _ in range(4))
        phases = [phase for phase in kind.phases if phase != "starting" or restarted]
        faults.append(Fault(number, kind.name, step, phases[int(which * len(phases))], fraction, choice, amount))
        restarted = kind.ends
    return tuple(faults)
