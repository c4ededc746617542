"""Time and memory of one pass of model_1 over proteins of several lengths, eager, and compiled for one of them."""

from __future__ import annotations

import torch

from foldline.benchmarks.gpu.errors import on_cpu, worst_norm
from foldline.benchmarks.gpu.harness import FAIL, MEASURED, Report, Settings
from foldline.benchmarks.gpu.memory import add_cost, measure
from foldline.benchmarks.gpu.precision import arithmetic
from foldline.benchmarks.gpu.synthetic import features, network
from foldline.data_store.types import FeatureBatch
from foldline.model.alphafold import AlphaFold
from foldline.model.config import model_1, tiny
from foldline.model.outputs import ModelOutput
from foldline.trainer.step import to_device

LENGTHS, COMPILED = (128, 256, 384, 512, 768), 256
CLUSTERS, EXTRA, TEMPLATES = 128, 1024, 4
# bfloat16: a compiled block rounds between fewer operations than an eager one.
BOUNDS = {"fp32": 1e-3, "bf16": 1e-1}


def check(report: Report, settings: Settings) -> None:
    """Every length in float32 and bfloat16, then the compiled blocks."""
    model = network(tiny() if settings.small else model_1(), settings.device).eval()
    lengths = (8, 16) if settings.small else LENGTHS
    for n_res in lengths:
        batch = batch_of(n_res, settings)
        for mode in ("fp32", "bf16"):
            name = f"{n_res} residues, {mode}"
            if settings.late:
                report.skip(name)
                continue
            outputs: list[ModelOutput] = []
            cost = measure(lambda mode=mode, batch=batch, outputs=outputs: fold(model, batch, mode, settings.device, outputs), settings)
            finite = all(bool(torch.isfinite(output.structure.positions).all()) for output in outputs)
            add_cost(report, name, cost, MEASURED if finite else FAIL, "" if finite else "positions are not finite")
    compiled(report, settings, model, lengths[1] if settings.small else COMPILED)


def batch_of(n_res: int, settings: Settings) -> FeatureBatch:
    rows = (4, 8, 2) if settings.small else (CLUSTERS, EXTRA, TEMPLATES)
    return to_device(features(n_res, *rows, torch.Generator().manual_seed(0)), torch.device(settings.device))


def fold(model: AlphaFold, batch: FeatureBatch, mode: str, device: str, outputs: list[ModelOutput]) -> None:
    """One pass; the newest output replaces the one before."""
    outputs.clear()
    with torch.inference_mode(), arithmetic(mode, device, model):
        outputs.append(model(batch, model.initial_recycled(batch)))


def compiled(report: Report, settings: Settings, model: AlphaFold, n_res: int) -> None:
    """torch.compile of the blocks, which share one graph for each stack; the dry run traces without generating code."""
    batch = batch_of(n_res, settings)
    eager: dict[str, list[ModelOutput]] = {"fp32": [], "bf16": []}
    for mode, outputs in eager.items():
        fold(model, batch, mode, settings.device, outputs)
    for stack in (model.extra_msa_stack.blocks, model.evoformer.blocks):
        for block in stack:
            block.compile(backend="eager" if settings.device == "cpu" else "inductor")
    for mode, expected in eager.items():
        name = f"{n_res} residues, {mode}, compiled blocks"
        if settings.late:
            report.skip(name)
            continue
        outputs = []
        cost = measure(lambda mode=mode, outputs=outputs: fold(model, batch, mode, settings.device, outputs), settings)
        add_cost(report, name, cost, MEASURED, "the warm-up compiles")
        if outputs:
            pair = ({name: on_cpu(getattr(out[0], name)) for name in ("m", "z", "s")} for out in (outputs, expected))
            report.at_most(f"compiled against eager, {mode}", worst_norm(*pair), BOUNDS[mode])
