"""TensorRT engines on the device: built, gated on real proteins, timed with and without CUDA graphs, refitted and compared.

The network has the full widths and four of the 48 Evoformer blocks, so that builds fit a short budget. The dry run builds a small one for
TensorRT-RTX, which needs no GPU, and runs none.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foldline.benchmarks.gpu.errors import worst_norm
from foldline.benchmarks.gpu.harness import MEASURED, Report, Row, Settings
from foldline.benchmarks.gpu.memory import add_cost, measure
from foldline.benchmarks.gpu.synthetic import features, network
from foldline.data_store.config import FeatureConfig
from foldline.data_store.types import FeatureBatch
from foldline.errors import FoldlineError
from foldline.export.config import GateConfig
from foldline.export.gate import run_gate
from foldline.export.gate_proteins import select_proteins
from foldline.export.graph import Arrays, output_schema
from foldline.export.graphs import write_graphs
from foldline.export.profiles import bucket_profiles
from foldline.export.runners import Runner, TorchRunner, features_of
from foldline.export.tensorrt import TensorRTRunner, build, load, refit, why_not
from foldline.model.alphafold import AlphaFold
from foldline.model.config import ModelConfig, model_1_ptm, tiny
from foldline.model.weights import save_weights

BLOCKS, LENGTH, PASSES = 4, 256, 4
LIMITS = {"fp32": 2e-3, "bf16": 1e-1}  # worst relative norm of an output of one pass, against PyTorch in float32


def check(report: Report, settings: Settings) -> None:
    """Both packages, in float32 and bfloat16."""
    for backend in ("tensorrt", "tensorrt_rtx"):
        reason = _obstacle(backend, settings)
        if reason:
            report.not_run(backend, reason)
            continue
        for precision in ("bf16",) if settings.small else ("fp32", "bf16"):
            if settings.late:
                report.skip(f"{backend}, {precision}")
                continue
            one_engine(report, settings, backend, precision)


def one_engine(report: Report, settings: Settings, backend: str, precision: str) -> None:
    """Graphs, engine, gate, timings, refit."""
    name, folder = f"{backend}, {precision}", settings.scratch / f"{backend}-{precision}"
    model = network(config_of(settings), "cpu").eval()
    rows = FeatureConfig(max_msa_clusters=8, max_extra_msa=16, max_templates=1) if settings.small else FeatureConfig()
    (folder / "graphs").mkdir(parents=True)
    write_graphs(model, folder / "graphs", precision)
    profiles = bucket_profiles((32,) if settings.small else (LENGTH // 2, LENGTH), rows)
    start = time.monotonic()
    facts = build(backend, folder / "graphs", model.config, profiles, folder / "engine", precision=precision, weights_sha256="0" * 64)
    size = sum(plan["bytes"] for plans in facts["plans"].values() for plan in plans.values())
    note = f"{size / 1e6:.0f} MB in {sum(map(len, facts['plans'].values()))} plans, weights mode '{facts['mode']}'"
    report.add(Row(f"{name}: build", MEASURED, time.monotonic() - start, unit="s", note=note, values={"bytes": float(size)}))
    if settings.device != "cuda":
        report.not_run(f"{name}: run", "no GPU: engines are built, not run")
        return
    run_engine(report, settings, name, folder, facts, model, rows)


def run_engine(
    report: Report, settings: Settings, name: str, folder: Path, facts: dict[str, Any], model: AlphaFold, rows: FeatureConfig
) -> None:
    """What needs the device."""
    reference = TorchRunner(model, "cuda")
    recorded = TensorRTRunner(folder / "engine", facts, model.config)
    plain = TensorRTRunner(folder / "engine", facts, model.config, cuda_graph=False)
    made_up = features(LENGTH - 8, rows.max_msa_clusters, rows.max_extra_msa, rows.max_templates, torch.Generator().manual_seed(0))
    batch = features_of(FeatureBatch(*(tensor.numpy() for tensor in made_up)), model.config)
    expected = outputs(reference, batch, 1)
    report.at_most(f"{name}: one pass against PyTorch", difference(outputs(recorded, batch, 1), expected), LIMITS[facts["precision"]])
    ours, theirs = outputs(plain, batch, PASSES), outputs(recorded, batch, PASSES)
    report.at_most(f"{name}: recorded passes against plain ones", difference(theirs, ours), 0.0)
    for label, runner in (("eager PyTorch, float32", reference), ("plain", plain), ("CUDA graph", recorded)):
        cost = measure(lambda runner=runner: passes(runner, batch, PASSES), settings)  # type: ignore[misc]
        add_cost(report, f"{name}: {PASSES} passes, {label}", cost, MEASURED, "; ".join(recorded.not_recorded.values()))
    gate(report, name, reference, recorded, rows, facts["precision"])
    if facts["mode"] != "strip":
        report.not_run(f"{name}: refit", f"weights mode '{facts['mode']}'")
        return
    other = network(model.config, "cpu").eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) * parameter.abs().mean())
    save_weights(folder / "new.safetensors", other.state_dict())
    start = time.monotonic()
    new = refit(folder / "engine", facts, folder / "new.safetensors", folder / "refitted", "1" * 64)
    refitted = TensorRTRunner(folder / "refitted", new, model.config)
    found = outputs(refitted, batch, 1)
    report.add(Row(f"{name}: refit, load and one pass", MEASURED, time.monotonic() - start, unit="s"))
    expected, before = outputs(TorchRunner(other, "cuda"), batch, 1), expected
    report.at_most(f"{name}: refitted against PyTorch", difference(found, expected), LIMITS[facts["precision"]])
    report.add(Row(f"{name}: what the new weights change", MEASURED, difference(expected, before)))


def gate(report: Report, name: str, reference: Runner, engine: Runner, rows: FeatureConfig, precision: str) -> None:
    """The gate's checks on the proteins that come with Foldline, each at the protein where it is worst."""
    config = GateConfig(bins=(LENGTH // 2, LENGTH), covered_bins=1, deep_rows=0)
    selection = select_proteins(None, (), config, engine.limits["N_res"][1])
    for one in run_gate(reference, engine, selection, rows, config, precision).worst.values():
        report.at_most(f"{name}: gate, {one.name}", one.value, one.limit, one.unit.strip(), one.protein)


def passes(runner: Runner, batch: Arrays, count: int) -> Any:
    """``count`` passes on the same features; the last state."""
    state = None
    for _ in range(count):
        state = runner.start(batch, state)
    return state


def outputs(runner: Runner, batch: Arrays, count: int) -> dict[str, Tensor]:
    """All outputs of the last pass, in float64."""
    found = passes(runner, batch, count).fetch(list(output_schema(runner.config)))
    return {name: torch.from_numpy(value).double() for name, value in found.items()}


def difference(ours: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    return worst_norm(ours, exact, floor=1e-6)


def config_of(settings: Settings) -> ModelConfig:
    """Full widths and a few blocks; for the dry run the least that has every stage but templates."""
    if settings.small:
        small = tiny()
        return replace(
            small,
            template=replace(small.template, enabled=False),
            evoformer=replace(small.evoformer, blocks=1),
            structure=replace(small.structure, iterations=1),
        )
    full = model_1_ptm()
    return replace(full, evoformer=replace(full.evoformer, blocks=BLOCKS))


def _obstacle(backend: str, settings: Settings) -> str:
    """Why nothing can be done with ``backend`` here; "" when something can."""
    if settings.device == "cuda":
        return why_not(backend) or ""
    if backend == "tensorrt":
        return "it builds on a GPU only"
    try:
        load(backend)
    except FoldlineError as error:
        return str(error)
    return ""
