"""The schedule as a function of samples; Adam with AF2's constants."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from foldline.trainer.config import OptimConfig
from foldline.trainer.optimizer import adam, learning_rate, set_learning_rate

AF2 = OptimConfig()


@pytest.mark.parametrize(
    ("samples", "rate"),
    [(0, 0.0), (1280, 1e-5), (64_000, 5e-4), (128_000, 1e-3), (6_400_000, 1e-3), (6_400_001, 9.5e-4), (20_000_000, 9.5e-4)],
)
def test_af2_schedule(samples: int, rate: float) -> None:
    assert learning_rate(samples, AF2) == pytest.approx(rate, rel=1e-12)


def test_fine_tuning_starts_at_the_full_rate() -> None:
    assert learning_rate(1, replace(AF2, lr=5e-4, warmup_samples=0)) == 5e-4


def test_the_rate_follows_samples_and_not_the_number_of_ranks() -> None:
    alone = [learning_rate(step * 1, AF2) for step in range(0, 4000, 8)]
    on_eight = [learning_rate(step * 8, AF2) for step in range(500)]
    assert alone == on_eight


def test_adam_has_af2_constants_and_takes_the_rate() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = adam([weight], AF2)
    group = optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["lr"]) == ((0.9, 0.999), 1e-6, 0.0)
    set_learning_rate(optimizer, 0.25)
    weight.grad = torch.full((3,), 4.0)
    optimizer.step()  # the first step of Adam moves by the rate, whatever the gradient's size
    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.75), rtol=0, atol=1e-6)
