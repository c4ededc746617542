"""``run.deterministic``: torch's switches are thrown, and a training step runs under them with the same bits each time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from foldline.data_store.loader import TrainLoader
from foldline.trainer.config import load_config
from foldline.trainer.engine import make_deterministic
from foldline.trainer.step import TrainingStep

from .runs import FAULTS, STEPS, check_equal, finish, write_config


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.backends.cudnn.deterministic, os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    make_deterministic()
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = before[0]
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG")
    if before[1] is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = before[1]


def test_a_step_runs_with_the_same_bits(deterministic: None, store: Path, tmp_path: Path) -> None:
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    config = load_config(write_config(tmp_path, store))
    torch.manual_seed(0)
    module = TrainingStep(config)
    with TrainLoader(config.data.store, config.data, config.features) as loader:
        batch = next(loader)
    gradients = []
    for _ in range(2):
        module.zero_grad()
        torch.manual_seed(1)
        module(batch).scaled.mean().backward()
        gradients.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
    assert all(one.equal(other) for one, other in zip(*gradients, strict=True))


def test_what_cuda_needs_is_set(deterministic: None) -> None:
    """Before CUDA's first use: torch reads these switches only then."""
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.slow
def test_two_whole_runs_have_the_same_bits(undisturbed: Path, store: Path, tmp_path: Path) -> None:
    finish(write_config(tmp_path, store, FAULTS))
    check_equal(undisturbed, tmp_path / "run", STEPS)
