"""AF2's training recipes: ``preset = "af2_initial"`` at the top of a run's TOML.

A recipe is a mapping in the form of that TOML. The file is laid over it key by key, and then each section's own preset is resolved, so
every figure can be overridden and ``model.preset = "small"`` trains another network by the same recipe. Figures: AF2 supplement 1.11.3,
1.11.7, 1.11.8 and table 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Recipe = Mapping[str, Any]
BATCH = 128  # samples per step over all ranks


def af2_initial() -> Recipe:
    """From random weights: crop 256, 124 clusters + 4 templates, 1,024 extra rows, no violation loss, 10 million samples."""
    return {
        "model": {"preset": "model_1", "loss": {"violation_weight": 0.0, "experimentally_resolved_weight": 0.0}},
        "features": {"preset": "initial", "max_recycles": 3},
        "data": {"max_resolution": 9.0, "max_single_residue": 0.8},
        "optim": _optim(lr=1e-3, warmup_samples=128_000),
        "run": _run(samples=10_000_000),
    }


def af2_finetune() -> Recipe:
    """From initial training's average: crop 384, 512 rows, 5,120 extra, violation 1.0, half the rate, no warm-up, 1.5 million samples."""
    return {
        "model": {"preset": "model_1", "loss": {"violation_weight": 1.0, "experimentally_resolved_weight": 0.01}},
        "features": {"preset": "finetune", "max_recycles": 3},
        "data": {"max_resolution": 9.0, "max_single_residue": 0.8},
        "optim": _optim(lr=5e-4, warmup_samples=0),
        "run": _run(samples=1_500_000) | {"init_weights": "initial.safetensors"},
    }


def af2_finetune_ptm() -> Recipe:
    """``af2_finetune`` with the predicted aligned error at weight 0.1; its head starts fresh where the weights have none."""
    recipe = af2_finetune()
    loss = {**recipe["model"]["loss"], "pae_weight": 0.1}
    return {**recipe, "model": {"preset": "model_1_ptm", "loss": loss}, "run": {**recipe["run"], "init_fresh": ["heads.pae"]}}


def finetune_from_weights() -> Recipe:
    """From published weights (``foldline weights import``): ``af2_finetune_ptm`` with a short warm-up, as Adam starts without moments."""
    recipe = af2_finetune_ptm()
    run = {**recipe["run"], "init_weights": "imported.safetensors", "init_fresh": []}
    return {**recipe, "optim": _optim(lr=5e-4, warmup_samples=100 * BATCH), "run": run}


def _optim(lr: float, warmup_samples: int) -> dict[str, Any]:
    return {
        "lr": lr,
        "warmup_samples": warmup_samples,
        "decay_after_samples": 6_400_000,
        "decay": 0.95,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-6,
        "clip": "sample",
        "clip_norm": 0.1,
        "ema_decay": 0.999,
    }


def _run(samples: int) -> dict[str, Any]:
    return {"micro_batch": 1, "batch": BATCH, "steps": -(-samples // BATCH)}


RECIPES: dict[str, Callable[[], Recipe]] = {
    "af2_initial": af2_initial,
    "af2_finetune": af2_finetune,
    "af2_finetune_ptm": af2_finetune_ptm,
    "finetune_from_weights": finetune_from_weights,
}
