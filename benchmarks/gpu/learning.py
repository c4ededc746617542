"""A short training run of the tiny network on the demo's proteins, or made-up ones where their readers are missing: the loss must fall."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace

import torch

from foldline.benchmarks.gpu.harness import FAIL, PASS, Report, Row, Settings
from foldline.benchmarks.gpu.precision import arithmetic
from foldline.benchmarks.gpu.synthetic import training_batch
from foldline.data_store.config import DataConfig, FeatureConfig
from foldline.data_store.types import TrainBatch
from foldline.model.config import ModelConfig, TemplateConfig, tiny
from foldline.trainer.config import DeepSpeedConfig, OptimConfig, RunConfig, RunSection
from foldline.trainer.optimizer import adam, set_learning_rate
from foldline.trainer.step import TrainingStep, to_device

STEPS, RATE, FALL = 20, 2e-3, 0.95  # the mean of the last five losses over that of the first five
READERS = ("gemmi", "zarr", "tensorstore")


def check(report: Report, settings: Settings) -> None:
    """Twenty steps over the same two batches in each arithmetic."""
    batches, what = training_batches(settings)
    for mode in ("fp32", "bf16"):
        add_run(report, f"{STEPS} steps, {mode}", plain_run(settings, batches, mode), what)


def add_run(report: Report, name: str, losses: list[float], what: str) -> None:
    """Pass when every loss is finite and they fell."""
    note = f"loss {losses[0]:.4g} to {losses[-1]:.4g}, {what}"
    fall = sum(losses[-5:]) / sum(losses[:5])
    if not all(map(math.isfinite, losses)):
        report.add(Row(name, FAIL, note=f"not finite: {note}"))
    else:
        report.add(Row(name, PASS if fall <= FALL else FAIL, fall, FALL, note=note))


def run_config(precision: str) -> RunConfig:
    """One rank, no templates, nothing dropped; the losses of AF2's initial training."""
    return RunConfig(
        data=DataConfig(),
        run=RunSection(dir="", steps=STEPS),
        model=model_config(),
        features=FeatureConfig(crop_size=63, max_msa_clusters=12, max_extra_msa=12, max_templates=0, max_recycles=0, block_delete_count=0),
        deepspeed=DeepSpeedConfig(precision=precision, zero_stage=0),
    )


def model_config() -> ModelConfig:
    config = tiny()
    still = {"dropout_msa": 0.0, "dropout_pair": 0.0}
    return replace(
        config,
        template=TemplateConfig(enabled=False),
        evoformer=replace(config.evoformer, **still),
        extra_msa=replace(config.extra_msa, **still),
        structure=replace(config.structure, dropout=0.0),
        loss=replace(config.loss, violation_weight=0.0, masked_msa_weight=0.1, min_resolution=0.0),
    )


def training_batches(settings: Settings) -> tuple[list[TrainBatch], str]:
    """Two batches on the device, and what they are."""
    features = run_config("fp32").features
    if settings.small:
        features = replace(features, crop_size=24, max_msa_clusters=6, max_extra_msa=6)
    missing = [name for name in READERS if importlib.util.find_spec(name) is None]
    if missing:
        shape = (features.crop_size, features.max_msa_clusters, features.max_extra_msa, 0)
        batches, what = [training_batch(*shape, seed=seed) for seed in range(2)], f"made-up proteins ({', '.join(missing)} missing)"
    else:
        batches, what = demo_batches(settings, features), "the demo's proteins"
    return [to_device(batch, torch.device(settings.device)) for batch in batches], what


def demo_batches(settings: Settings, features: FeatureConfig) -> list[TrainBatch]:
    """Two batches through ingest, store and loader."""
    from foldline.data_store.ingest import ingest
    from foldline.data_store.loader import TrainLoader

    store = settings.scratch / "demo.store"
    if not store.exists():
        ingest((settings.scratch / "foldline").resolve() / "examples" / "demo", store)
    with TrainLoader(store, DataConfig(store=str(store)), features, micro_batch=2) as loader:
        return [next(loader) for _ in range(2)]


def plain_run(settings: Settings, batches: list[TrainBatch], mode: str) -> list[float]:
    """The losses of a run without DeepSpeed."""
    torch.manual_seed(0)
    step = TrainingStep(run_config(mode)).to(settings.device).train()
    optimizer = adam(step.parameters(), OptimConfig())
    set_learning_rate(optimizer, RATE)
    losses = []
    for number in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        with arithmetic(mode, settings.device, step.model):
            scaled = step(batches[number % len(batches)]).scaled
        scaled.backward()
        torch.nn.utils.clip_grad_norm_(step.parameters(), OptimConfig().clip_norm)
        optimizer.step()
        losses.append(float(scaled.detach()))
    return losses
