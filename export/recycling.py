"""Recycling in the host: passes until the count is reached or the structure stands still. Recycled tensors stay with the runner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..data_store.residues import CA
from ..data_store.types import FeatureBatch
from .graph import Arrays, crop_outputs, output_schema
from .runners import Runner, features_of, fit, result_names


@dataclass(frozen=True)
class Folded:
    """The results of the last pass (recycled tensors are left out), the number of passes made, and what the last one moved.

    ``change``: see ``distance_change``, between the last two passes; None after a single pass.
    """

    outputs: Arrays
    passes: int
    change: float | None


def recycle(
    runner: Runner, cycles: Sequence[FeatureBatch], tolerance: float = 0.0, on_pass: Callable[[int], None] = lambda done: None
) -> Folded:
    """One pass per feature set (numpy, unbatched), each fed by the one before (Algorithm 31), at most all of ``cycles``.

    Stops early after the pass whose ``distance_change`` is at most ``tolerance`` ångström; 0 makes every pass. AF2-Multimer's
    ``recycle_early_stop_tolerance`` (its default 0.5) and ColabFold's, after AF2Complex (Gao et al., Nat. Commun. 13, 1744, 2022).
    ``on_pass`` is told the number of passes done.
    """
    if not cycles:
        raise ValueError("recycling needs at least one feature set")
    n_res, schema = len(cycles[0].aatype), output_schema(runner.config)
    mask = np.asarray(cycles[0].seq_mask, np.float64)
    state, before, change = None, None, None
    for done, batch in enumerate(cycles, 1):
        state = runner.start(fit(features_of(batch, runner.config), runner), state)
        after = state.fetch(["positions"])["positions"][:n_res, CA]
        change = None if before is None else distance_change(before, after, mask)
        on_pass(done)
        if change is not None and change <= tolerance and tolerance > 0:
            break
        before = after
    assert state is not None
    return Folded(crop_outputs(state.fetch(result_names(runner.config)), schema, n_res), done, change)


def fold_cycles(runner: Runner, cycles: Sequence[FeatureBatch], on_pass: Callable[[int], None] = lambda done: None) -> Arrays:
    """The results of all passes of ``cycles``."""
    return recycle(runner, cycles, 0.0, on_pass).outputs


def distance_change(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> float:
    """Root mean square change of the distances between all pairs of Cα, ångström. ``before``, ``after`` [N_res, 3], ``mask`` [N_res]."""
    moved = _distances(after) - _distances(before)
    pairs = mask[:, None] * mask[None, :]
    return float(np.sqrt((pairs * moved**2).sum() / max(pairs.sum(), 1.0)))


def _distances(points: np.ndarray) -> np.ndarray:
    """|p - q| as the root of |p|² + |q|² - 2 p·q in float64: no [N_res, N_res, 3] in between."""
    p = points.astype(np.float64) - points.mean(0, dtype=np.float64)
    square = (p * p).sum(-1)
    result: np.ndarray = np.sqrt(np.maximum(square[:, None] + square[None, :] - 2 * p @ p.T, 0))
    return result
