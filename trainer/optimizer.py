"""Adam and its schedule, as functions of the samples seen (AF2 supplement 1.11.3)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from .config import OptimConfig


def learning_rate(samples: int, config: OptimConfig) -> float:
    """The rate of the step that brings the run to ``samples`` seen samples.

    Linear from 0 to ``config.lr`` over ``warmup_samples``, constant, then × ``decay`` beyond ``decay_after_samples``. Counting samples and
    not steps keeps the schedule the same for every number of ranks.
    """
    warm = min(1.0, samples / config.warmup_samples) if config.warmup_samples else 1.0
    return config.lr * warm * (config.decay if samples > config.decay_after_samples else 1.0)


def adam(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.Adam:
    """AF2's Adam. An instance of torch's: DeepSpeed's own would be compiled at the start of the run."""
    return torch.optim.Adam(parameters, lr=0.0, betas=(config.beta1, config.beta2), eps=config.eps)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Write ``rate`` into every parameter group; ``optimizer`` may be DeepSpeed's wrapper."""
    for group in optimizer.param_groups:
        group["lr"] = rate
