"""Run by test_protocol.py on one rank, then on two: the same training by hand, by accumulation, by micro-batches, under every ZeRO stage.

Arguments: the store, a folder to share, and cases "stage clip checkpointing every offload" for two ranks. On one rank the training is first
done without DeepSpeed and without our stepping code; its losses and weights are what everything else is compared with.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from foldline.cluster.ranks import discover
from foldline.data_store.config import DataConfig, FeatureConfig
from foldline.data_store.loader import TrainLoader
from foldline.data_store.types import TrainBatch
from foldline.model.config import LossConfig, tiny
from foldline.trainer import engine as engine_module
from foldline.trainer.advance import Stepper, mixed_seed
from foldline.trainer.config import OptimConfig, RunConfig, RunSection, check
from foldline.trainer.ema import Ema
from foldline.trainer.engine import deepspeed_json, initialize, start_process_group, stop_process_group
from foldline.trainer.optimizer import adam, learning_rate, set_learning_rate
from foldline.trainer.partitions import gather, master_partitions
from foldline.trainer.step import TrainingStep

STEPS = 6
BATCH = 2
CLIPS = ("sample", "batch")
# Float32 rounding, and what Adam makes of it. Measured: losses differ by 4e-7 of themselves, weights by 2.3e-6 (the rate is 1e-3).
LOSS = {"rtol": 1e-5, "atol": 0.0}
WEIGHTS = {"rtol": 0.0, "atol": 2e-5}


def configure(store: str, clip: str, dropout: bool = True, crop: int = 16) -> RunConfig:
    """A small network that trains on two chains, of 37 and of more residues: cut to 40, micro-batches are padded."""
    model = tiny()
    narrow = {"c_hidden_tri_mul": 8, "c_hidden_msa_att": 4, "c_hidden_outer": 4}
    rates = {} if dropout else {"dropout_msa": 0.0, "dropout_pair": 0.0}
    model = replace(
        model,
        c_m=8,
        c_z=8,
        c_s=8,
        c_e=8,
        # One open bin of recycled distances: rounding must not carry a pair over the edge between two.
        embedder=replace(model.embedder, recycle_min_bin=0.01, recycle_bins=1),
        template=replace(model.template, enabled=False),
        extra_msa=replace(model.extra_msa, **narrow, **rates),
        evoformer=replace(model.evoformer, **narrow, **rates),
        loss=small_losses(model.loss),
        structure=replace(model.structure, iterations=2, c_hidden=4, c_resnet=8, **({} if dropout else {"dropout": 0.0})),
    )
    config = RunConfig(
        DataConfig(store=store, train=("1ajj_A", "1bxy_A")),
        RunSection(dir="none", steps=STEPS, batch=BATCH, threads=1, device="cpu"),
        model=model,
        features=FeatureConfig(crop_size=crop, max_msa_clusters=4, max_extra_msa=8, max_templates=0, max_recycles=2),
        optim=OptimConfig(warmup_samples=10, clip=clip, clip_norm=LIMIT),
    )
    config = replace(config, deepspeed=replace(config.deepspeed, zero_stage=0, checkpoint_blocks_every=0))
    check(config)
    return config


LIMIT = 0.45  # between the norms of this training's samples, so that some are clipped and some are not
SCALED = ("fape_weight", "distogram_weight", "masked_msa_weight", "experimentally_resolved_weight")


def small_losses(loss: LossConfig) -> LossConfig:
    """Weights times 0.01, since Adam turns the rounding of gradients near its eps, 1e-6, into visible steps.

    No violations, whose gradients are wild at the start, and no confidence: its targets are bins, and rounding may put an error that lies
    between two of them into one or the other.
    """
    weights = {f.name: 0.01 * getattr(loss, f.name) for f in fields(loss) if f.name in SCALED}
    return replace(loss, **weights, violation_weight=0.0, plddt_weight=0.0, pae_weight=0.0)


def batches(config: RunConfig, micro_batch: int = 1) -> Iterator[TrainBatch]:
    """What one rank of the job is given, as trainer/loop.py opens it."""
    rank, world = dist.get_rank(), dist.get_world_size()
    passes = BATCH // (micro_batch * world)
    path = Path(config.data.store)
    return iter(TrainLoader(path, config.data, config.features, rank=rank, world=world, micro_batch=micro_batch, accumulate=passes))


def network(config: RunConfig) -> TrainingStep:
    """The same weights each time. None is zero as at AF2's start, where angles have no direction and rounding decides on their gradient."""
    torch.manual_seed(0)
    module = TrainingStep(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def by_hand(config: RunConfig) -> tuple[list[float], dict[str, Tensor], list[float]]:
    """Losses, weights and samples' gradient norms of the training with nothing but torch, clipped as ``optim.clip`` says."""
    module = network(config)
    parameters = dict(module.named_parameters())
    optimizer = adam(module.parameters(), config.optim)
    losses, norms, samples = [], [], batches(config)
    for step in range(1, STEPS + 1):
        set_learning_rate(optimizer, learning_rate(step * BATCH, config.optim))
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        values = []
        for _ in range(BATCH):
            sample = next(samples)
            torch.manual_seed(mixed_seed(config.run.seed, int(sample.position)))
            output = module(sample)
            gradients = dict(zip(parameters, torch.autograd.grad(output.scaled, list(parameters.values())), strict=True))
            norm = torch.sqrt(sum(g.square().sum() for g in gradients.values()))
            norms.append(float(norm))
            scale = min(1.0, LIMIT / float(norm)) if config.optim.clip == "sample" else 1.0
            for name, gradient in gradients.items():
                total[name] += scale * gradient / BATCH
            values.append(float(output.terms.total))
        norm = torch.sqrt(sum(g.square().sum() for g in total.values()))
        scale = min(1.0, LIMIT / float(norm)) if config.optim.clip == "batch" else 1.0
        for name, parameter in parameters.items():
            parameter.grad = scale * total[name]
        optimizer.step()
        losses.append(sum(values) / BATCH)
    return losses, {name: p.detach().clone() for name, p in parameters.items()}, norms


def by_engine(config: RunConfig, micro_batch: int = 1) -> tuple[list[float], dict[str, Tensor], list[dict[str, float]]]:
    """Losses, weights and metrics of the same training as a run does it."""
    config = replace(config, run=replace(config.run, micro_batch=micro_batch))
    engine = initialize(network(config), config, dist.get_world_size())
    stepper = Stepper(engine, batches(config, micro_batch), config, torch.device("cpu"))
    stage = config.deepspeed.zero_stage
    ema = Ema(master_partitions(engine, stage), config.optim.ema_decay)
    metrics = [stepper.advance(step, ema) for step in range(1, STEPS + 1)]
    return [m["loss/total"] for m in metrics], gather(engine, stage, master_partitions(engine, stage)), metrics


def same(found: tuple[list[float], dict[str, Tensor], Any], wanted: tuple[list[float], dict[str, Tensor], Any], what: str) -> None:
    """Raise AssertionError unless losses and weights agree; prints by how much they differ."""
    losses, weights = (torch.tensor(side[0], dtype=torch.float64) for side in (found, wanted)), wanted[1]
    mine, theirs = losses
    assert found[1].keys() == weights.keys()
    moved = max(float((found[1][name] - weights[name]).abs().max()) for name in weights)
    print(f"{what}: loss {float(((mine - theirs) / theirs).abs().max()):.1e}, weights {moved:.1e}", flush=True)
    torch.testing.assert_close(mine, theirs, **LOSS, msg=lambda text: f"{what}: losses: {text}")
    for name in weights:
        torch.testing.assert_close(found[1][name], weights[name], **WEIGHTS, msg=lambda text, name=name: f"{what}: {name}: {text}")


def alone(store: str, folder: Path) -> None:
    """One rank: by hand, and by accumulation and micro-batches of two; writes what was done by hand."""
    for clip in CLIPS:
        config = configure(store, clip)
        wanted = by_hand(config)
        found = by_engine(config)
        same(found, wanted, f"{clip}: accumulation")
        clipped = [norm > LIMIT for norm in wanted[2]]
        assert 0.1 < sum(clipped) / len(clipped) < 0.9, wanted[2]
        if clip == "sample":
            for step, metrics in enumerate(found[2]):
                pair = wanted[2][BATCH * step : BATCH * (step + 1)]
                assert abs(metrics["optim/sample_norm_max"] / max(pair) - 1) < 1e-4
                assert abs(metrics["optim/sample_norm_mean"] / (sum(pair) / BATCH) - 1) < 1e-4
                assert metrics["optim/clipped_share"] == sum(norm > LIMIT for norm in pair) / BATCH
            same(by_engine(config, micro_batch=2), wanted, "sample: micro-batch, with dropout")
            assert all(m["optim/grad_norm"] <= LIMIT for m in found[2])  # a mean of clipped gradients
        still = configure(
            store, clip, dropout=False, crop=40
        )  # one draw of dropout for a whole micro-batch is another than two for its samples
        same(by_engine(still, micro_batch=2), by_hand(still), f"{clip}: micro-batch")
        save_file(wanted[1] | {"losses": torch.tensor(wanted[0], dtype=torch.float64)}, folder / f"{clip}.safetensors")


def together(store: str, folder: Path, cases: list[str]) -> None:
    """Two ranks: every case against what one did by hand."""
    for case in cases:
        stage, clip, by, every, offload = case.split()
        config = configure(store, clip)
        settings = replace(
            config.deepspeed,
            zero_stage=int(stage),
            checkpointing=by,
            checkpoint_blocks_every=int(every),
            offload_optimizer=offload == "offload",
        )
        weights = load_file(folder / f"{clip}.safetensors")
        losses = weights.pop("losses").tolist()
        same(by_engine(replace(config, deepspeed=settings)), (losses, weights, None), case)


def shard_everything(config: RunConfig, world: int) -> dict[str, Any]:
    """The run's JSON, but at stage 3 small parameters are sharded too: ours are all below DeepSpeed's limit."""
    document = deepspeed_json(config, world)
    if config.deepspeed.zero_stage == 3:
        document["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return document


def main(store: str, folder: Path, cases: list[str]) -> None:
    engine_module.deepspeed_json = shard_everything
    ranks = discover()
    start_process_group(configure(store, "batch"), ranks)
    if ranks.world == 1:
        alone(store, folder)
    else:
        together(store, folder, cases)
    stop_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
