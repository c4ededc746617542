"""``foldline export``: a run's averaged weights -> ONNX -> engine -> gate -> bundle, or an error and nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from .. import __version__
from ..data_store.config import DataConfig, FeatureConfig
from ..errors import FoldlineError
from ..model.alphafold import AlphaFold
from ..model.config import ModelConfig
from ..model.weights import count_parameters, load_weights
from ..settings import from_dict, to_dict
from .building import add_engine
from .bundle import GRAPHS, WEIGHTS, Bundle, new_bundle, sha256_of
from .config import ExportConfig
from .core import Core
from .engine_store import Engine, engines_of
from .gating import Gate
from .graph import input_schema, output_schema
from .graphs import write_graphs
from .kinds import Order, Say, find_kind, package_versions
from .printing import print_gate, stage_printer


@dataclass(frozen=True)
class TrainedRun:
    """What export reads of a run directory."""

    path: Path
    model: ModelConfig
    features: FeatureConfig
    data: DataConfig
    weights: Path


def export_command(run_dir: Path, out: Path, config: ExportConfig) -> int:
    """Export the run in ``run_dir`` to the new bundle ``out`` and print what was made; 0, or FoldlineError and no bundle."""
    console = Console(highlight=False)
    bundle, engine = export_bundle(read_run(run_dir), out, config, stage_printer(console))
    print_gate(console, engine)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    console.print(f"[bold]{escape(str(out))}[/]  {size / 1e6:.1f} MB, engine {engine.label}, bundle {bundle.identity[:16]}", soft_wrap=True)
    return 0


def read_run(run_dir: Path) -> TrainedRun:
    """Read ``config.json`` and find the averaged weights. Raises FoldlineError naming what is missing or unreadable."""
    config, weights = run_dir / "config.json", run_dir / "weights" / "ema.safetensors"
    if not config.is_file():
        raise FoldlineError(f"{run_dir} is no run directory: it has no config.json; give --run the run.dir of `foldline train`")
    if not weights.is_file():
        raise FoldlineError(f"{run_dir} has no weights yet ({weights} is missing); finish the training, or go on with --resume")
    try:
        saved = json.loads(config.read_text())
        parts = {name: saved[name] for name in ("model", "features", "data")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FoldlineError(f"{config} is not a run's config: {error!r}; copy it back from a checkpoint of this run") from None
    where = str(config)
    model, features = from_dict(ModelConfig, parts["model"], where), from_dict(FeatureConfig, parts["features"], where)
    return TrainedRun(run_dir, model, features, from_dict(DataConfig, parts["data"], where), weights)


def export_bundle(run: TrainedRun, out: Path, config: ExportConfig, say: Say) -> tuple[Bundle, Engine]:
    """Make the bundle with one engine, which has passed its gate. Raises FoldlineError, and then ``out`` does not exist."""
    kind, reason = default_kind(config.engine)
    say(f"engine {kind}: {reason}")
    model = AlphaFold(run.model)
    about = load_weights(run.weights, model)
    gate = Gate(_store(run), run.data.validation, config)
    contents = _contents(run, config, about)
    with new_bundle(out, contents) as folder:
        shutil.copyfile(run.weights, folder / WEIGHTS)
        for precision in dict.fromkeys(("fp32", config.precision)):
            graphs = folder / GRAPHS / precision
            graphs.mkdir(parents=True)
            write_graphs(model, graphs, precision, config.opset)
            size = sum(file.stat().st_size for file in graphs.iterdir())
            say(f"ONNX: {precision}, opset {config.opset}, {count_parameters(model):,} parameters, {size / 1e6:.1f} MB")
        core = Core(folder, run.model, run.features, contents["weights"]["sha256"], config.opset)
        made = add_engine(core, kind, order_of(config), gate, say)
        if made.not_gated:
            raise FoldlineError(f"no bundle was written, since its engine could not be gated: {made.not_gated}")
    bundle = Bundle.open(out)
    return bundle, engines_of(out)[0]


def default_kind(wanted: str) -> tuple[str, str]:
    """The kind that an export builds, and why: ``wanted``, or for "auto" TensorRT or TensorRT-RTX where they run, else ONNX Runtime."""
    if wanted != "auto":
        return find_kind(wanted).name, "asked for"
    reasons: list[str] = []
    for name in ("tensorrt", "tensorrt_rtx"):
        obstacle = find_kind(name).why_not("cuda")
        if obstacle is None:
            return name, "; ".join([f"{name} runs here", *reasons])
        reasons.append(f"not {name}: {obstacle}")
    return "onnxruntime", "; ".join(reasons)


def order_of(config: ExportConfig) -> Order:
    """What ``[export]`` asks of an engine."""
    return Order(
        config.precision, config.device, config.lengths, config.threads, config.compute_capability, config.tensorrt, config.plugins
    )


def _store(run: TrainedRun) -> str:
    if not run.data.store.startswith("s3://") and not Path(run.data.store).exists():
        raise FoldlineError(
            f"the gate folds proteins of the run's store, and '{run.data.store}' (data.store of {run.path / 'config.json'}) is not there; "
            "run from the folder that the training ran in, or put the store back"
        )
    return run.data.store


def _contents(run: TrainedRun, config: ExportConfig, about: dict[str, str]) -> dict[str, Any]:
    schemas = {"inputs": input_schema(run.model), "outputs": output_schema(run.model)}
    return {
        "foldline": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": str(run.path),
        "model": to_dict(run.model),
        "features": to_dict(run.features),
        "weights": {"sha256": sha256_of(run.weights)} | about,
        "opset": config.opset,
        "data": {"store": run.data.store, "validation": list(run.data.validation)},
        "export": to_dict(config),
        "versions": package_versions("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "numpy"),
        **{kind: {name: [field.kind, *field.dims] for name, field in schema.items()} for kind, schema in schemas.items()},
    }
