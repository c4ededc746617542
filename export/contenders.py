"""Who is measured beside an engine: PyTorch as it is, and PyTorch compiled."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..model.alphafold import AlphaFold
from ..model.config import ModelConfig
from ..model.weights import load_weights
from .bench import Factory
from .runners import Runner, TorchRunner

EAGER = "PyTorch"


def contenders(weights: Path, model: ModelConfig, engine: tuple[str, Factory]) -> dict[str, Factory]:
    """Name -> what opens it, eager PyTorch in float32 first, the engine last."""
    return {EAGER: partial(eager, weights, model), engine[0]: engine[1]}


def eager(weights: Path, config: ModelConfig) -> Runner:
    """PyTorch with these weights."""
    model = AlphaFold(config)
    load_weights(weights, model)
    return TorchRunner(model)
