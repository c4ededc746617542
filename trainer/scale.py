"""What a config's run asks of any cluster, counted on fake tensors, for the arithmetic of ``cluster/scaling.py``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..cluster.scaling import Calls, Stack, Workload
from ..data_store.arrays import OPEN_PARTS
from ..data_store.store import Store
from ..errors import FoldlineError
from ..model.config import EvoformerConfig, TemplateConfig
from ..model.cost import Work
from .config import RunConfig, passes_per_step
from .plan import batch_bytes, blocks_of, cost_of, flops, parameter_bytes, sharding

WIDTH = {"fp32": 4, "bf16": 2}  # bytes of what ranks exchange
TYPICAL_SAMPLE = (
    1.4e6  # bytes of an alignment in the store where none is at hand: 10,000 rows of 300 residues, compressed (benchmarks/store.py)
)


def workload(config: RunConfig) -> Workload:
    """Count the run's network at its crop and read the store's mean size of a chain, where the store is there. Some ten seconds."""
    one = replace(config, run=replace(config.run, micro_batch=1, batch=1, accumulate=1))
    every = config.deepspeed.checkpoint_blocks_every
    cost, plain = cost_of(one, config.features.crop_size, every), cost_of(one, config.features.crop_size, 0)
    blocks, cycles = blocks_of(one), 1 + config.features.max_recycles / 2
    stacks = tuple(_stack(config, name, *works) for name, works in blocks.items())
    inside = _inside(blocks)
    batch = config.run.micro_batch * passes_per_step(config, 1)
    return Workload(
        batch=batch,
        samples=batch * config.run.steps,
        cycles=cycles,
        stacks=stacks,
        forward=_calls(cost.forward - inside[0]),
        backward=_calls(cost.backward - inside[1]),
        recomputed=every > 0,
        flops=cycles * flops(plain.forward) + flops(plain.backward),
        parameters=parameter_bytes(config.model),
        sharding=sharding(one, 1),
        activations=float(cost.peak),
        features=float(batch_bytes(one)),
        stored=stored_bytes(config.data.store),
        workers=config.data.workers,
        open_files=OPEN_PARTS + 1,  # and the one that is being opened
    )


def stored_bytes(store: str) -> float:
    """Mean bytes of a chain in the store at ``store``; ``TYPICAL_SAMPLE`` where there is none."""
    if not store.startswith("s3://") and not Path(store).exists():
        return TYPICAL_SAMPLE
    opened = Store.open(store)
    return sum(part.bytes for part in opened.manifest.parts) / max(1, len(opened))


def _inside(blocks: Mapping[str, tuple[int, Work, Work]]) -> tuple[Work, Work]:
    """Forward and backward kernels of all blocks of all stacks."""
    total: tuple[Work, Work] = (Counter(), Counter())
    for depth, *works in blocks.values():
        for sum_, one in zip(total, works, strict=True):
            sum_.update({kernel: depth * number for kernel, number in one.items()})
    return total


def _stack(config: RunConfig, name: str, depth: int, forward: Work, backward: Work) -> Stack:
    """The stack with what axial parallelism would exchange in one of its blocks.

    Whole on every rank: the biases that pairs give to attention, one projection of the outer product, one of each triangle multiplication.
    Cut along the other axis and back: the MSA for its column attention, the pairs for the ending node's.
    """
    model, features, width = config.model, config.features, WIDTH[config.deepspeed.precision]
    residues = features.crop_size
    if "template" in name:
        gathered, swapped, exchanges = _pairs(model.template, model.template.c_t, residues)
        copies = max(1, features.max_templates) * width
        return Stack(name, depth, _calls(forward), _calls(backward), copies * gathered, copies * swapped, exchanges)
    if "extra" in name:
        part, c_m, rows = model.extra_msa, model.c_e, features.max_extra_msa
    elif "evoformer" in name:
        part, c_m, rows = model.evoformer, model.c_m, features.max_msa_clusters + features.max_templates
    else:
        raise FoldlineError(f"stack {name!r} of the network is unknown to the plan over nodes; plan it with --world")
    gathered, swapped, exchanges = _pairs(part, model.c_z, residues)
    gathered += part.heads_msa * residues**2 + rows * residues * part.c_hidden_outer
    return Stack(
        name, depth, _calls(forward), _calls(backward), width * gathered, width * (swapped + 2 * rows * residues * c_m), exchanges + 4
    )


def _pairs(part: EvoformerConfig | TemplateConfig, c_z: int, residues: int) -> tuple[int, int, int]:
    """(values gathered, values swapped, exchanges) of the pair half of a block."""
    return (2 * part.c_hidden_tri_mul + 2 * part.heads_tri) * residues**2, 2 * c_z * residues**2, 6


def _calls(work: Work) -> Calls:
    return tuple(((kernel.flops, kernel.dtype, kernel.bytes), number) for kernel, number in sorted(work.items()))
