"""Going on with other ranks or at another ZeRO stage: a step keeps its samples, whoever computes them."""

from __future__ import annotations

import json
from dataclasses import replace

from ..errors import FoldlineError
from ..settings import from_dict
from .checkpoint import CONFIG, Found
from .config import RunConfig, samples_per_step


def share_out(config: RunConfig, found: Found, world: int) -> RunConfig:
    """``config`` with as many passes per rank as make a step of ``world`` ranks see the samples that a step of the checkpoint saw.

    The sample order, the recycles and the learning rate follow from the samples, so they go on as if nothing had changed. FoldlineError
    where the samples cannot be shared out, and where ``run.accumulate`` or ``run.batch`` was changed to another number of samples.
    """
    run, batch = config.run, found.manifest.batch
    before = from_dict(RunConfig, json.loads((found.path / CONFIG).read_text()), f"{found.path / CONFIG}").run
    if batch % (run.micro_batch * world):
        possible = [str(n) for n in range(1, batch // run.micro_batch + 1) if batch % (run.micro_batch * n) == 0]
        way_out = f"start with {', '.join(possible)} ranks" if possible else f"set run.micro_batch to a divisor of {batch}"
        raise FoldlineError(
            f"--resume: a step of this run takes {batch} samples, which {world} ranks with run.micro_batch = {run.micro_batch} cannot "
            f"share; {way_out}"
        )
    if (run.accumulate, run.batch) != (before.accumulate, before.batch) and samples_per_step(config, world) != batch:
        raise FoldlineError(
            f"--resume: run.micro_batch = {run.micro_batch}, run.accumulate = {run.accumulate}, run.batch = {run.batch} with {world} ranks "
            f"make {samples_per_step(config, world)} samples per step, but a step of this run takes {batch}; set run.batch = {batch} and "
            "leave run.accumulate at 1, whatever run.micro_batch is"
        )
    return replace(config, run=replace(run, batch=batch, accumulate=1))


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
