"""``foldline replay``: a sample that made a step not finite, alone, with the weights of that step, watched module by module."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..data_store.loader import collate
from ..data_store.sampler import SampleTask
from ..data_store.types import TrainBatch
from ..data_store.worker import SampleMaker
from ..errors import FoldlineError
from ..model.alphafold import AlphaFold
from ..model.weights import load_weights
from ..settings import from_dict
from .advance import mixed_seed
from .config import RunConfig
from .step import TrainingStep, to_device

T = TypeVar("T")
DTYPES = ("run", "float32", "float64")
PASSES_SAID = "pass {number} of {of}"


def replay_command(path: Path, device: str, dtype: str, store: str) -> int:
    """Print what each sample of a replay file does; 0 whether or not the trouble comes up again."""
    replay, config = read_replay(path)
    if store:
        config = replace(config, data=replace(config.data, store=store))
    if device == "cuda" and not torch.cuda.is_available():
        raise FoldlineError("--device cuda: torch sees no CUDA device; give --device cpu")
    where = torch.device(device)
    module = build(config, path.parent / replay["weights"], where, dtype)
    maker = SampleMaker(Path(config.data.store), config.features)
    for sample in replay["samples"]:
        position, chain, seed = int(sample["position"]), str(sample["chain"]), int(sample["seed"])
        print(f"step {replay['step']}, rank {replay['rank']}: sample {position}, chain '{chain}', residues {sample['crop']}, ", end="")
        print(f"{sample['recycles']} recycles; not finite then: {' '.join(sample['terms'])}")
        batch = collate([maker(SampleTask(position, chain, seed, int(sample["recycles"]) + 1))])
        torch.manual_seed(mixed_seed(config.run.seed, position))  # the dropout of the run, where a rank took one sample at a time
        for line in examine(module, to_device(batch, where), config, dtype):
            print(f"  {line}")
    return 0


def read_replay(path: Path) -> tuple[dict[str, Any], RunConfig]:
    """The file and the config of its run. Raises FoldlineError where either is missing or is something else."""
    try:
        replay = json.loads(path.read_text())
        config = from_dict(RunConfig, json.loads((path.parent / replay["config"]).read_text()), "the run's config")
        replay["samples"], replay["weights"], replay["step"], replay["rank"]
    except OSError as error:
        raise FoldlineError(f"{path}: {error}; give a file of RUN/replays, which stays beside RUN/config.json") from None
    except (ValueError, KeyError, TypeError):
        raise FoldlineError(f"{path} is no replay file; give a RUN/replays/step_N_rank_R.json") from None
    return replay, config


def build(config: RunConfig, weights: Path, device: torch.device, dtype: str) -> TrainingStep:
    """The step that trained, without recomputation, in the run's precision or wholly in ``dtype``."""
    if dtype not in DTYPES:
        raise FoldlineError(f"--dtype {dtype} is none of {', '.join(DTYPES)}")
    settings = replace(config.deepspeed, checkpoint_blocks_every=0, precision=config.deepspeed.precision if dtype == "run" else "fp32")
    module = TrainingStep(replace(config, deepspeed=settings))
    load_weights(weights, module.model)
    module = module.to(device)
    return module.double() if dtype == "float64" else module


def examine(module: TrainingStep, batch: TrainBatch, config: RunConfig, dtype: str) -> list[str]:
    """Lines: the loss terms, what was first not finite on the way, and the gradient's norm per sub-network."""
    lines = [f"weights: {name} is not finite" for name, p in module.model.named_parameters() if not p.isfinite().all()][:5]
    lines += [f"input: {name} is not finite" for name, value in _named(batch) if not _finite(value)]
    found: list[str] = []
    bf16 = dtype == "run" and config.deepspeed.precision == "bf16"
    with watched(module.model, len(batch.cycles), found), torch.autocast(batch.position.device.type, torch.bfloat16, enabled=bf16):
        output = module(_cast(batch, torch.float64) if dtype == "float64" else batch)
    lines += [f"loss {name:22} {float(term):.6g}" for name, term in output.terms._asdict().items()]
    bad = [name for name, term in output.terms._asdict().items() if not _finite(term)]
    lines.append(f"not finite: {', '.join(bad)}" if bad else "every loss is finite")
    lines.append(f"first output that is not finite: {found[0]}" if found else "every module's output is finite")
    module.zero_grad()
    output.scaled.mean().backward()
    return lines + [f"gradient of {name:18} {norm:.6g}" for name, norm in gradient_norms(module.model).items()]


def gradient_norms(model: AlphaFold) -> dict[str, float]:
    """Norm of the gradient by sub-network."""
    norms = {}
    for name, part in model.named_children():
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        if gradients:
            norms[name] = float(torch.nn.utils.get_total_norm(gradients))
    return norms


@contextmanager
def watched(model: AlphaFold, passes: int, found: list[str]) -> Iterator[None]:
    """Inside, ``found`` gets the first module whose output is not finite: inner modules end before those around them."""
    number = 0

    def start(module: nn.Module, inputs: Any) -> None:
        nonlocal number
        number += 1

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not all(_finite(value) for value in _tensors(output)):
                fed = "" if all(_finite(value) for value in _tensors(inputs)) else ", fed something that is not finite already"
                found.append(f"{name} ({type(module).__name__}), {PASSES_SAID.format(number=number, of=passes)}{fed}")

        return hook

    hooks = [model.register_forward_pre_hook(start)]
    hooks += [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.detach().isfinite().all())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _named(batch: TrainBatch) -> Iterator[tuple[str, Tensor]]:
    yield from ((f"targets.{name}", value) for name, value in batch.targets._asdict().items())
    for number, cycle in enumerate(batch.cycles, 1):
        yield from ((f"pass {number}: {name}", value) for name, value in cycle._asdict().items())


def _cast(value: T, dtype: torch.dtype) -> T:
    """``value`` with every floating-point tensor in it as ``dtype``."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value  # type: ignore[return-value]
    if isinstance(value, tuple):
        items = [_cast(item, dtype) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)  # type: ignore[return-value]
    return value
