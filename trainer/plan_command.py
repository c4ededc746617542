"""What ``foldline plan`` prints: a table for people, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from ..cluster.plan import GIB, GPUS, Device
from ..errors import FoldlineError
from ..settings import nearest
from .config import load_config, passes_per_step
from .plan import Estimate, Plan, make_plan
from .speed import matmul_peak

SHORT = ("forward", "backward", "comm.", "optimizer")


def plan_command(config_path: Path, overrides: Sequence[str], gpu: str, world: int, as_json: bool) -> int:
    """Print the plan of a config for ``world`` ranks on ``gpu``; 0 where it fits, 1 where it does not."""
    if gpu != "cpu" and gpu not in GPUS:
        raise FoldlineError(f"--gpu {gpu!r} is not in the table; {nearest(gpu, [*GPUS, 'cpu'])}")
    if world < 1:
        raise FoldlineError(f"--world {world} is less than 1; give the number of ranks")
    config = load_config(config_path, overrides)
    passes_per_step(config, world)
    plan = make_plan(config, this_machine() if gpu == "cpu" else GPUS[gpu], world)
    if as_json:
        print(json.dumps(asdict(plan), indent=1))
    else:
        show(plan)
    return 0 if plan.chosen.fits else 1


def this_machine() -> Device:
    """The CPU here, as one rank with all its memory."""
    peak = matmul_peak()
    return Device("cpu", float(psutil.virtual_memory().total), {"float32": peak, "bfloat16": peak}, 10e9, 5e9)


def show(plan: Plan) -> None:
    """Two tables and what follows from them."""
    console, chosen = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120), plan.chosen
    memory = Table("memory per rank", "GiB", box=None, pad_edge=False)
    memory.columns[1].justify = "right"
    for name, size in [*((n, s) for n, s in chosen.memory.items() if s), ("sum", chosen.total)]:
        memory.add_row(name, f"{size / GIB:.2f}")
    console.print(memory)
    console.print(f"{plan.device.name} has {plan.device.memory / GIB:.1f} GiB; highest {chosen.peak_at}; largest tensor {plan.largest}\n")
    policies = Table("recomputed", "GiB", "longest crop", *(f"{part}, s" for part in SHORT), "step, s", box=None, pad_edge=False)
    policies.columns[0].no_wrap = True
    for column in policies.columns[1:]:
        column.justify = "right"
    for estimate in plan.policies:
        row = [f"{s:.3g}" for s in (*estimate.seconds.values(), sum(estimate.seconds.values()))]
        mark = "*" if estimate.every == chosen.every else ""
        policies.add_row(policy(estimate) + mark, f"{estimate.total / GIB:.2f}", str(estimate.longest_crop), *row)
    console.print(policies)
    console.print("* configured (deepspeed.checkpoint_blocks_every)")
    ranks = f"{plan.world} {'rank' if plan.world == 1 else 'ranks'}"
    console.print(f"\n{ranks}, {plan.step_flops / 1e12:.4g} TFLOP per step at the mean number of recycles")
    console.print(f"fits: {'yes' if chosen.fits else 'no'}; longest crop with the configured policy: {chosen.longest_crop} residues")
    cheapest = f"recompute {policy(plan.cheapest)}" if plan.cheapest else "none; take a shorter crop, fewer rows or a larger GPU"
    console.print(f"cheapest policy that fits: {cheapest}")


def policy(estimate: Estimate) -> str:
    """What is recomputed, in words."""
    return {0: "nothing", 1: "every block"}.get(estimate.every, f"every {estimate.every} blocks")
