"""The same short run under DeepSpeed, one rank: its engine starts on this machine and takes the steps that plain torch takes."""

from __future__ import annotations

from dataclasses import replace

import torch

from foldline.benchmarks.gpu.harness import Report, Settings
from foldline.benchmarks.gpu.learning import RATE, add_run, plain_run, run_config, training_batches
from foldline.cluster.ranks import discover
from foldline.data_store.types import TrainBatch
from foldline.trainer.config import RunConfig
from foldline.trainer.engine import initialize, start_process_group, stop_process_group
from foldline.trainer.optimizer import set_learning_rate
from foldline.trainer.step import TrainingStep

# Relative difference of a step's loss over the first steps; later ones amplify rounding.
SAME, COMPARED = {"fp32": 1e-4, "bf16": 5e-2}, 10


def check(report: Report, settings: Settings) -> None:
    """The loss falls as without DeepSpeed, step by step."""
    import deepspeed  # noqa: F401  where it is missing, the check is not run

    batches, what = training_batches(settings)
    config = configured(settings, "fp32", len(batches[0].position))
    start_process_group(config, discover({}))
    try:
        for mode, bound in SAME.items():
            plain = plain_run(settings, batches, mode)
            losses = engine_run(configured(settings, mode, len(batches[0].position)), batches, len(plain))
            add_run(report, f"ZeRO-0, {mode}", losses, what)
            far = max(abs(a - b) / max(abs(b), 1e-6) for a, b in zip(losses[:COMPARED], plain, strict=False))
            report.at_most(f"ZeRO-0 against plain torch, {mode}", far, bound)
    finally:
        stop_process_group()


def configured(settings: Settings, mode: str, micro_batch: int) -> RunConfig:
    config = run_config(mode)
    return replace(config, run=replace(config.run, device=settings.device, micro_batch=micro_batch, threads=torch.get_num_threads()))


def engine_run(config: RunConfig, batches: list[TrainBatch], steps: int) -> list[float]:
    """The losses of a run through DeepSpeed's engine."""
    torch.manual_seed(0)
    engine = initialize(TrainingStep(config).train(), config, 1)
    set_learning_rate(engine.optimizer, RATE)
    losses = []
    for number in range(steps):
        scaled = engine(batches[number % len(batches)]).scaled
        engine.backward(scaled)
        engine.step()
        losses.append(float(scaled.detach()))
    return losses
