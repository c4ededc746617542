"""Activation checkpointing and chunking change memory, not results: both against the plain network, dropout on."""

from __future__ import annotations

from dataclasses import replace

import torch

from foldline.benchmarks.gpu.errors import Arrays, on_cpu, worst_norm
from foldline.benchmarks.gpu.harness import Report, Settings
from foldline.benchmarks.gpu.precision import arithmetic
from foldline.benchmarks.gpu.synthetic import network, training_batch
from foldline.data_store.types import TrainBatch
from foldline.model.alphafold import AlphaFold, run_cycles
from foldline.model.chunk import set_chunk_size
from foldline.model.config import ModelConfig, small, tiny
from foldline.model.losses.total import AlphaFoldLoss
from foldline.model.remat import checkpoint_blocks
from foldline.trainer.step import to_device

SAME, ROUNDED, ROUNDED_BFLOAT16 = 1e-5, 1e-3, 2e-1  # the same kernels (but for the order of sums), other kernels, the same in bfloat16
FLOOR = 1e-2  # of the largest gradient


def check(report: Report, settings: Settings) -> None:
    """Loss and gradients of one step: plain, checkpointed every 1, 2 and 4 blocks, chunked by 4 and 64 rows."""
    config = deep(tiny() if settings.small else small())
    model = network(config, settings.device).train()
    sizes = (12, 6, 8, 2) if settings.small else (96, 64, 128, 4)
    batch = to_device(training_batch(*sizes), torch.device(settings.device))
    chunks, modes = ((4,), ("fp32",)) if settings.small else ((4, 64), ("fp32", "bf16"))
    for mode in modes:
        plain = step(model, batch, mode, settings.device)
        for every in (1, 2, 4):
            checkpoint_blocks(model, every)
            error = worst_norm(step(model, batch, mode, settings.device), plain, FLOOR)
            report.at_most(f"checkpoint every {every}, {mode}", error, SAME if mode == "fp32" else ROUNDED)
        checkpoint_blocks(model, 0)
        for size in chunks:
            set_chunk_size(model, size)
            error = worst_norm(step(model, batch, mode, settings.device), plain, FLOOR)
            report.at_most(f"chunks of {size} rows, {mode}", error, ROUNDED if mode == "fp32" else ROUNDED_BFLOAT16)
        set_chunk_size(model, None)


def deep(config: ModelConfig) -> ModelConfig:
    """Five blocks: segments of two and four end unevenly."""
    return replace(config, evoformer=replace(config.evoformer, blocks=5))


def step(model: AlphaFold, batch: TrainBatch, mode: str, device: str) -> Arrays:
    """The gradient of every parameter and, as ``total``, the loss; the same dropout masks each time."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    with arithmetic(mode, device, model):
        loss = AlphaFoldLoss(model.config)(run_cycles(model, batch.cycles), batch.cycles[-1], batch.targets)
    loss.total.backward()
    return {"total": on_cpu(loss.total)} | {name: on_cpu(p.grad) for name, p in model.named_parameters() if p.grad is not None}
