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
    """What the plan must know of a kind: in which phases it may come, whether the job always ends by it, and whether it may come ``early``,
    when there is no checkpoint yet to go on from.
    """

    name: str
    phases: tuple[str, ...]
    ends: bool
    early: bool = False


def window(config: RunConfig) -> tuple[int, int]:
    """First step of a run behind its first checkpoint, and the last that leaves two checkpoints to come: between them faults may come."""
    every = config.run.checkpoint_every
    return every + 1, config.run.steps - 2 * every - 1


def draw(seed: int, count: int, kinds: Sequence[Traits], window: tuple[int, int]) -> tuple[Fault, ...]:
    """``count`` faults in the order of their steps; each kind comes equally often, but for one. The first comes before the window, when
    there is no checkpoint yet, where some kind may.

    ``starting`` is drawn only for that one, and behind a fault that ends the job. Uses ``random()`` alone, the one generator that Python
    promises to keep.
    """
    rng = random.Random(seed)
    names = [kinds[i % len(kinds)] for i in range(count)]
    for i in reversed(range(1, count)):  # Fisher-Yates
        j = int(rng.random() * (i + 1))
        names[i], names[j] = names[j], names[i]
    first, last = window
    steps = sorted(first + int(rng.random() * (last + 1 - first)) for _ in range(count))
    at = next((i for i, kind in enumerate(names) if kind.early), None)
    if at is not None:
        names[0], names[at] = names[at], names[0]
        steps[0] = 1 + int(rng.random() * (first - 1))
    faults: list[Fault] = []
    restarted = at is not None
    for number, (kind, step) in enumerate(zip(names, steps, strict=True), 1):
        which, fraction, choice, amount = (rng.random() for _ in range(4))
        phases = [phase for phase in kind.phases if phase != "starting" or restarted]
        faults.append(Fault(number, kind.name, step, phases[int(which * len(phases))], fraction, choice, amount))
        restarted = kind.ends
    return tuple(faults)
