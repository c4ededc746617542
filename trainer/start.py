"""Starting from weights instead of random numbers: they must fit, and their loss is known before anything changes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..data_store.types import TrainBatch
from ..errors import FoldlineError
from ..model.alphafold import AlphaFold
from ..model.outputs import Loss
from ..model.weights import check_names, read_weights
from ..settings import nearest
from .config import RunConfig
from .step import StepOutput, TrainingStep, to_device


def check_initial(config: RunConfig) -> None:
    """Raise FoldlineError unless ``run.init_weights``, where given, fits ``[model]``; one error lists every name and shape that does not.

    Builds no weights, so that it can be called before the ranks start.
    """
    if config.run.init_weights:
        with torch.device("meta"):
            model = AlphaFold(config.model)
        _read(config, model)


def load_initial(model: AlphaFold, config: RunConfig) -> str:
    """Put ``run.init_weights`` into ``model``; returns a line that says what was loaded and what starts fresh."""
    tensors = _read(config, model)
    fresh = sorted({module for module in config.run.init_fresh if not any(name.startswith(f"{module}.") for name in tensors)})
    model.load_state_dict(tensors, strict=not fresh)
    return f"starting from {config.run.init_weights}" + (f"; fresh: {', '.join(fresh)}" if fresh else "")


@torch.no_grad()
def initial_metrics(module: TrainingStep, batches: Iterator[TrainBatch], passes: int, device: torch.device) -> dict[str, float]:
    """Losses and lDDT-Cα of ``module`` as it is, without dropout, on the samples of the first step; means over all ranks. Collective."""
    module.eval()
    outputs: list[StepOutput] = [module(to_device(next(batches), device)) for _ in range(passes)]
    module.train()
    means = torch.stack([torch.stack([*output.terms, output.lddt_ca]).double() for output in outputs]).mean(0)
    dist.all_reduce(means)
    names = [*(f"imported/loss/{name}" for name in Loss._fields), "imported/lddt_ca"]
    return dict(zip(names, (means / dist.get_world_size()).tolist(), strict=True))


def _read(config: RunConfig, model: nn.Module) -> dict[str, Tensor]:
    """The tensors of ``run.init_weights``, which fit ``model`` but for whole modules that ``run.init_fresh`` names."""
    path = Path(config.run.init_weights)
    if not path.is_file():
        raise FoldlineError(
            f"run.init_weights = {str(path)!r} is not there; `foldline weights import` makes such a file of published weights"
        )
    tensors, _ = read_weights(path)
    check_names(
        _expected(config, model, tensors), {name: tuple(tensor.shape) for name, tensor in tensors.items()}, f"run.init_weights: {path}"
    )
    return tensors


def _expected(config: RunConfig, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes that the file must have."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    modules = [name for name, _ in model.named_modules() if name]
    for fresh in config.run.init_fresh:
        if fresh not in modules:
            raise FoldlineError(f"run.init_fresh: the network has no module {fresh!r}; {nearest(fresh, modules)}")
        if not any(name.startswith(f"{fresh}.") for name in tensors):
            expected = {name: shape for name, shape in expected.items() if not name.startswith(f"{fresh}.")}
    return expected
