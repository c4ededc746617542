"""``foldline plan``: memory and time of a run's step on a GPU, before there is one. Counted on fake tensors, then arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..cluster.plan import CONTEXT, FRAGMENTS, Device, Sharding, communication_seconds, longest, seconds, state_bytes, working_bytes
from ..data_store.config import DataConfig
from ..data_store.types import FeatureBatch, Targets, TrainBatch, schema_of
from ..model.alphafold import run_cycles
from ..model.config import ModelConfig
from ..model.cost import COUNTED, Census, Cost, Work, block_work, extend, extend_work, fake_tensors, take_census, without_contents
from ..model.remat import Blocks
from .config import DeepSpeedConfig, RunConfig, RunSection, passes_per_step
from .step import TrainingStep

Sizes = tuple[tuple[str, int], ...]
POLICIES = (0, 4, 2, 1)  # blocks per recomputed segment, the fastest first


@dataclass(frozen=True)
class Estimate:
    """One policy: bytes by purpose, their sum, the step's seconds by purpose, the longest crop that fits."""

    every: int
    memory: dict[str, float]
    total: float
    fits: bool
    seconds: dict[str, float]
    longest_crop: int
    peak_at: str


@dataclass(frozen=True)
class Plan:
    """Of one rank: the configured policy and the others, and what does not depend on them."""

    device: Device
    world: int
    chosen: Estimate
    policies: tuple[Estimate, ...]
    cheapest: Estimate | None  # of those that fit, the one with the shortest step
    parameters: int
    largest: str
    step_flops: float  # operations of matrix products of all ranks, with the mean number of recycles and without recomputing


def make_plan(config: RunConfig, device: Device, world: int) -> Plan:
    """Count and add up. Raises FoldlineError where ``world`` ranks cannot share ``run.batch``."""
    crop, configured = config.features.crop_size, config.deepspeed.checkpoint_blocks_every
    crops = sorted({max(8, crop // 2), crop, 2 * crop})
    everies = [*POLICIES, *([configured] if configured not in POLICIES else [])]
    estimates = {every: estimate(config, device, world, every, crops) for every in everies}
    cost = cost_of(config, crop, configured)
    fitting = [e for e in estimates.values() if e.fits]
    chosen = estimates[configured]
    return Plan(
        device,
        world,
        chosen,
        tuple(estimates.values()),
        min(fitting, key=lambda e: sum(e.seconds.values()), default=None),
        parameter_bytes(config.model),
        f"{cost.largest.shape} of {cost.largest.kernel}, {cost.largest.bytes / 2**20:.0f} MiB",
        step_flops(config, world),
    )


def estimate(config: RunConfig, device: Device, world: int, every: int, crops: Sequence[int]) -> Estimate:
    """Memory and time with segments of ``every`` blocks; the activations' growth with the crop is taken from ``crops``."""
    crop, how = config.features.crop_size, sharding(config, world)
    parameters = parameter_bytes(config.model)
    cost = cost_of(config, crop, every)
    cuda = device.name != "cpu"
    memory = state_bytes(parameters, how) | working_bytes(parameters, how)
    memory["batch"] = float(batch_bytes(config))
    fixed = sum(memory.values()) + (CONTEXT if cuda else 0.0)
    memory["activations kept"] = float(cost.kept)
    memory["working tensors"] = float(cost.peak - cost.kept)
    if cuda:
        memory |= {"allocator": FRAGMENTS * cost.peak, "cuda context": CONTEXT}
    total = sum(memory.values())
    spread = 1 + FRAGMENTS if cuda else 1.0
    needed = [spread * cost_of(config, length, every).peak for length in crops]
    return Estimate(
        every,
        memory,
        total,
        total <= device.memory,
        step_seconds(config, device, world, cost),
        longest(crops, needed, fixed, device.memory),
        cost.peak_at,
    )


def step_seconds(config: RunConfig, device: Device, world: int, cost: Cost) -> dict[str, float]:
    """Seconds of an optimizer step by purpose; forward passes with the mean number of recycles. Waiting for data is not in it."""
    how, cycles = sharding(config, world), 1 + config.features.max_recycles / 2
    parts = _parts_per_step(config, world)
    forward, backward = seconds(cost.forward.items(), device), seconds(cost.backward.items(), device)
    parameters = parameter_bytes(config.model)
    share = parameters / world if how.stage else parameters
    return {
        "forward": parts * cycles * forward,
        "backward": parts * backward,
        "communication": communication_seconds(parameters, how, passes_per_step(config, world), config.features.max_recycles + 1, device),
        "optimizer and ema": 12 * share / device.bandwidth,  # Adam reads and writes three of its size, the average two
    }


def step_flops(config: RunConfig, world: int, cycles: float | None = None) -> float:
    """Operations of the matrix products that a step needs on all ranks: ``cycles`` forward passes (none given: the mean of the
    recycles) and one backward; what is recomputed does not count."""
    cost = cost_of(config, config.features.crop_size, 0)
    passes = 1 + config.features.max_recycles / 2 if cycles is None else cycles
    return world * _parts_per_step(config, world) * (passes * flops(cost.forward) + flops(cost.backward))


def forward_flops(config: RunConfig) -> float:
    """Operations of one forward pass of one sample; losses have no matrix products. A second of counting at the start of a run."""
    one = replace(config.run, micro_batch=1)
    census = _census(config.model, config.deepspeed.precision, _sizes(replace(config, run=one), config.features.crop_size), 0, False)
    forward, _ = extend_work(census, _depths(config.model))
    return float(flops(forward))


def flops(work: Work) -> int:
    """Operations of all matrix products."""
    return sum(kernel.flops * number for kernel, number in work.items())


def sharding(config: RunConfig, world: int) -> Sharding:
    """What ``[deepspeed]`` and ``[optim]`` say about a rank's share."""
    settings = config.deepspeed
    return Sharding(
        world,
        settings.zero_stage,
        config.optim.clip == "sample",
        config.run.micro_batch * passes_per_step(config, world),
        settings.reduce_bucket_size,
        settings.overlap_comm,
        settings.offload_optimizer,
    )


def _parts_per_step(config: RunConfig, world: int) -> int:
    """How often a rank runs the network forward and backward in a step: samples go one by one where they are clipped so."""
    return passes_per_step(config, world) * (config.run.micro_batch if config.optim.clip == "sample" else 1)


def cost_of(config: RunConfig, crop: int, every: int) -> Cost:
    """One differentiated pass of the run's network at ``crop`` residues."""
    sizes = _sizes(config, crop)
    plain, recomputed = (_census(config.model, config.deepspeed.precision, sizes, k, True) for k in (0, min(1, every)))
    return extend(plain, recomputed, _depths(config.model), every)


def blocks_of(config: RunConfig) -> dict[str, tuple[int, Work, Work]]:
    """Stack -> its depth, and the forward and backward kernels of one block of the run's network."""
    every = min(1, config.deepspeed.checkpoint_blocks_every)
    census = _census(config.model, config.deepspeed.precision, _sizes(config, config.features.crop_size), every, True)
    depths = _depths(config.model)
    return {name: (depths[name], *works) for name, works in block_work(census, depths).items()}


def _sizes(config: RunConfig, crop: int) -> Sizes:
    features = config.features
    batch = 1 if config.optim.clip == "sample" else config.run.micro_batch
    rows = {"N_clust": features.max_msa_clusters, "N_extra": features.max_extra_msa, "N_templ": max(1, features.max_templates)}
    return tuple({"batch": batch, "N_res": crop, **rows}.items())


@lru_cache(maxsize=64)
def _census(model: ModelConfig, precision: str, sizes: Sizes, every: int, differentiated: bool) -> Census:
    """Of the network with few blocks: a few seconds for each; one where it is not ``differentiated``, and then without the losses."""
    settings = DeepSpeedConfig(precision=precision, checkpoint_blocks_every=every)
    config = RunConfig(DataConfig(), RunSection(dir="", steps=1), shallow(model), deepspeed=settings)
    with torch.device("meta"):
        step = TrainingStep(config)
    with fake_tensors():
        without_contents(step.train())
        batch = TrainBatch((_empty(FeatureBatch, sizes),), _empty(Targets, sizes), torch.zeros(1, dtype=torch.long))

        def forward() -> Tensor:
            return step(batch).scaled

        def fold() -> Tensor:
            return run_cycles(step.model, batch.cycles).structure.positions

        with torch.set_grad_enabled(differentiated):
            return take_census(step, forward if differentiated else fold, differentiated)


def shallow(model: ModelConfig) -> ModelConfig:
    """``model`` with at most as many blocks in each stack as are counted."""
    return replace(
        model,
        evoformer=replace(model.evoformer, blocks=min(COUNTED, model.evoformer.blocks)),
        extra_msa=replace(model.extra_msa, blocks=min(COUNTED, model.extra_msa.blocks)),
        template=replace(model.template, blocks=min(COUNTED, model.template.blocks)),
    )


@lru_cache(maxsize=8)
def _on_meta(model: ModelConfig) -> TrainingStep:
    with torch.device("meta"):
        return TrainingStep(RunConfig(DataConfig(), RunSection(dir="", steps=1), model))


def _depths(model: ModelConfig) -> dict[str, int]:
    return {name: len(module) for name, module in _on_meta(model).named_modules() if isinstance(module, Blocks)}


def parameter_bytes(model: ModelConfig) -> int:
    """Bytes of the trained weights, float32."""
    return 4 * sum(parameter.numel() for parameter in _on_meta(model).parameters())


def batch_bytes(config: RunConfig) -> int:
    """Bytes of a micro-batch: a feature set per pass, and the targets."""
    sizes = tuple((dict(_sizes(config, config.features.crop_size)) | {"batch": config.run.micro_batch}).items())
    with torch.device("meta"):
        one, targets = (sum(t.nbytes for t in _empty(kind, sizes)) for kind in (FeatureBatch, Targets))
    return (1 + config.features.max_recycles) * one + targets


def _empty(kind: type, sizes: Sizes) -> Any:
    known = dict(sizes)
    shapes = {
        name: (known["batch"], *(known[d] if isinstance(d, str) else d for d in field.dims)) for name, field in schema_of(kind).items()
    }
    types = {"int": torch.int64, "float": torch.float32}
    return kind(*(torch.empty(shapes[name], dtype=types[field.kind]) for name, field in schema_of(kind).items()))
