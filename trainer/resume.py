"""Going on with other ranks or at another ZeRO stage: a step keeps its samples, whoever computes them."""

from __future__ import annotations

from dataclasses import replace

from ..errors import FoldlineError
from .checkpoint import Found, Manifest
from .config import RunConfig


def share_out(config: RunConfig, saved: Manifest, world: int) -> RunConfig:
    """``config`` with as many passes per rank as make a step of ``world`` ranks see the samples that a step of the checkpoint saw.

    The sample order, the recycles and the learning rate follow from the samples, so they go on as if nothing had changed. FoldlineError
    where the samples cannot be shared out.
    """
    micro = config.run.micro_batch
    if saved.batch % (micro * world):
        possible = [str(n) for n in range(1, saved.batch // micro + 1) if saved.batch % (micro * n) == 0]
        raise FoldlineError(
            f"--resume: a step of this run takes {saved.batch} samples, which {world} ranks with run.micro_batch = {micro} cannot share; "
            f"start with {', '.join(possible)} ranks"
        )
    return replace(config, run=replace(config.run, batch=saved.batch, accumulate=1))


def going_on(found: Found, config: RunConfig, world: int) -> str:
    """The line that says from where the run goes on, and what is other than it was."""
    before = (found.manifest.world, found.manifest.zero_stage)
    now = (world, config.deepspeed.zero_stage)
    if before == now:
        return f"going on from {found.path}"
    return (
        f"going on from {found.path}, written by {before[0]} ranks at ZeRO {before[1]}, with {now[0]} at ZeRO {now[1]}: "
        "the same samples, sums in another order"
    )
