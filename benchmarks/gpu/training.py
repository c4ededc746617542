"""Memory and time of one training step of model_1, for every checkpoint policy: forward, losses, backward, Adam."""

from __future__ import annotations

import math

import torch

from foldline.benchmarks.gpu.harness import FAIL, MEASURED, Report, Settings
from foldline.benchmarks.gpu.memory import add_cost, measure
from foldline.benchmarks.gpu.precision import arithmetic
from foldline.benchmarks.gpu.synthetic import training_batch, wake
from foldline.data_store.config import DataConfig, FeatureConfig, finetune, initial
from foldline.model.config import model_1, tiny
from foldline.model.remat import checkpoint_blocks
from foldline.trainer.config import OptimConfig, RunConfig, RunSection
from foldline.trainer.optimizer import adam, set_learning_rate
from foldline.trainer.step import TrainingStep, to_device

POLICIES = {1: "checkpoint every block", 0: "no checkpoints", 2: "checkpoint every 2", 4: "checkpoint every 4"}


def check_initial(report: Report, settings: Settings) -> None:
    """AF2's initial training."""
    check(report, settings, initial())


def check_finetune(report: Report, settings: Settings) -> None:
    """AF2's fine-tuning."""
    check(report, settings, finetune())


def check(report: Report, settings: Settings, sizes: FeatureConfig) -> None:
    """One row for each policy and arithmetic, and laws between them where torch counts the device's memory."""
    torch.manual_seed(0)
    with torch.device(settings.device):
        step = TrainingStep(RunConfig(DataConfig(), RunSection(dir="", steps=1), tiny() if settings.small else model_1()))
    wake(step.model)
    optimizer = adam(step.parameters(), OptimConfig())
    set_learning_rate(optimizer, 1e-5)
    shape = (sizes.crop_size // 16, 4, 8, 2) if settings.small else crop_shape(sizes)
    batch = to_device(training_batch(*shape), torch.device(settings.device))
    peaks: dict[tuple[str, int], float] = {}
    for mode in ("fp32", "bf16"):
        for every, policy in POLICIES.items():
            name = f"{policy}, {mode}"
            if settings.late:
                report.skip(name)
                continue
            losses: list[float] = []

            def work(mode: str = mode, losses: list[float] = losses) -> None:
                optimizer.zero_grad(set_to_none=True)
                with arithmetic(mode, settings.device, step.model):
                    scaled = step(batch).scaled
                scaled.backward()
                optimizer.step()
                losses.append(float(scaled.detach()))

            checkpoint_blocks(step.model, every)
            cost = measure(work, settings)
            optimizer.zero_grad(set_to_none=True)
            finite = all(map(math.isfinite, losses))
            add_cost(report, name, cost, MEASURED if finite else FAIL, f"loss {losses[-1]:.4g}" if losses else "")
            if cost is not None:
                peaks[mode, every] = cost.peak
    if settings.device == "cuda":
        compare(report, peaks)
    else:
        report.not_run("peaks compared", "only CUDA counts what tensors take")


def crop_shape(sizes: FeatureConfig) -> tuple[int, int, int, int]:
    return sizes.crop_size, sizes.max_msa_clusters, sizes.max_extra_msa, sizes.max_templates


def compare(report: Report, peaks: dict[tuple[str, int], float]) -> None:
    """Recomputing every block takes less memory than any other policy, bfloat16 less than float32."""
    for (mode, every), peak in peaks.items():
        if every != 1 and (mode, 1) in peaks:
            report.at_most(f"every block / {POLICIES[every]}, {mode}", peaks[mode, 1] / peak, 1.0)
    for every, policy in POLICIES.items():
        if ("bf16", every) in peaks and ("fp32", every) in peaks:
            report.at_most(f"bf16 / fp32, {policy}", peaks["bf16", every] / peaks["fp32", every], 1.0)
