"""What the validations so far mean for a run: which checkpoints are its best, and whether to stop.

Derived from the journal alone, so that a resumed run goes on with the same answer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist

from .config import RunConfig
from .journal import Record, read_journal
from .measures import SET, rankable


class Verdict(NamedTuple):
    """``best`` the steps of the best checkpoints, the best first, at most ``run.keep_best``; ``ends``: why the run stops early, or ""."""

    best: tuple[int, ...] = ()
    ends: str = ""


class Result(NamedTuple):
    """``validate.metric`` at one step, turned so that higher is better."""

    step: int
    value: float


def judge(journal: Path, config: RunConfig, checkpoints: Collection[int]) -> Verdict:
    """The verdict on the validations in ``journal``; only steps in ``checkpoints`` can be best. Steps from 1 on count."""
    if not config.run.keep_best and not config.validate.patience:
        return Verdict()
    found = results(read_journal(journal), config.validate.metric)
    ranked = sorted((r for r in found if r.step in checkpoints), key=lambda r: (-r.value, r.step))
    return Verdict(tuple(r.step for r in ranked[: config.run.keep_best]), _why_it_ends(found, config))


def agree(journal: Path, config: RunConfig, checkpoints: Collection[int]) -> Verdict:
    """Rank 0's verdict, on every rank. Collective."""
    verdict = [judge(journal, config, checkpoints) if dist.get_rank() == 0 else Verdict()]
    dist.broadcast_object_list(verdict)
    return verdict[0]


def results(history: Sequence[Record], metric: str) -> list[Result]:
    """The metric by rising step, the newest where a step was validated twice; results of another set than the newest's do not count."""
    records = [r for r in history if r.kind == "validate" and r.step > 0 and metric in r.metrics]
    if not records:
        return []
    sign = 1.0 if rankable()[metric] else -1.0
    same = [r for r in records if r.metrics.get(SET) == records[-1].metrics.get(SET)]
    return [Result(step, value) for step, value in sorted({r.step: sign * r.metrics[metric] for r in same}.items()) if value == value]


def _why_it_ends(found: Sequence[Result], config: RunConfig) -> str:
    """The sentence that ends the run once the last ``validate.patience`` results are no better than those before them."""
    patience, metric = config.validate.patience, config.validate.metric
    last_gain, reached = -1, float("-inf")
    for place, result in enumerate(found):
        if result.value > reached + (config.validate.min_delta if place else 0.0):
            last_gain, reached = place, result.value
    if not patience or len(found) - 1 - last_gain < patience:
        return ""
    best, value = found[last_gain].step, reached if rankable()[metric] else -reached
    return (
        f"{metric} has not improved by more than {config.validate.min_delta:g} in {patience} validations since step {best} ({value:.4g}); "
        f"the run ends early at step {found[-1].step}; raise validate.patience to go on with --resume"
    )
