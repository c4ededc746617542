"""``foldline export``: a run's averaged weights -> ONNX -> engine -> gate -> bundle, or an error and nothing."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .. import __version__
from ..data_store.config import DataConfig, FeatureConfig
from ..errors import FoldlineError
from ..model.alphafold import AlphaFold
from ..model.config import ModelConfig
from ..model.weights import count_parameters, load_weights
from ..settings import from_dict, to_dict
from .bench import BenchReport, run_bench
from .bundle import ONNX, WEIGHTS, Bundle, new_bundle, sha256_of
from .config import ExportConfig
from .contenders import contenders
from .engines import build, choose_engine, open_runner, package_versions
from .gate import GateReport, require, run_gate
from .gate_proteins import Selection, select_proteins
from .gate_report import write_report
from .graph import input_schema, output_schema
from .onnx import export_onnx
from .runners import Runner, TorchRunner


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
    run = read_run(run_dir)
    bundle, report = export_bundle(run, out, config, _stage_printer(console))
    console.print(_gate_table(report))
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    engine_name = bundle.manifest["engine"]["name"]
    console.print(
        f"[bold]{escape(str(out))}[/]  {size / 1e6:.1f} MB, engine {engine_name}, identity {bundle.identity[:16]}", soft_wrap=True
    )
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


def export_bundle(run: TrainedRun, out: Path, config: ExportConfig, stage: Callable[[str], None]) -> tuple[Bundle, GateReport]:
    """Make the bundle. ``stage`` is told what is done as it is done. Raises FoldlineError, and then ``out`` does not exist."""
    choice = choose_engine(config.engine)
    stage(f"engine {choice.name}: {choice.reason}")
    model = AlphaFold(run.model)
    about = load_weights(run.weights, model)
    _require_store(run)
    contents: dict[str, Any] = _contents(run, config, about)
    with new_bundle(out, contents) as folder:
        shutil.copyfile(run.weights, folder / WEIGHTS)
        export_onnx(model, folder / ONNX, config.opset)
        stage(f"ONNX: opset {config.opset}, {count_parameters(model):,} parameters, {(folder / ONNX).stat().st_size / 1e6:.1f} MB")
        started = time.monotonic()
        contents["engine"] = build(folder, choice.name, run.model, run.features, config) | {"reason": choice.reason}
        built = time.monotonic() - started
        runner: Runner = open_runner(folder, contents["engine"], run.model)
        selection = gate_selection(run, config, runner)
        report = run_gate(TorchRunner(model), runner, selection, run.features, config.gate, on_protein=lambda name: stage(f"gate: {name}"))
        require(report)
        bench = _bench(run, folder, contents["engine"], selection, config, stage)
        size = (folder / contents["engine"]["file"]).stat().st_size
        write_report(folder, report, bench, contents["engine"] | {"build_seconds": built, "bytes": size})
    return Bundle.open(out), report


def gate_selection(run: TrainedRun, config: ExportConfig, runner: Runner) -> Selection:
    """The proteins to compare on, from the run's store and what ``config.gate`` names. Raises FoldlineError where they do not suffice."""
    longest = runner.limits["N_res"][1] if "N_res" in runner.limits else None
    return select_proteins(run.data.store, run.data.validation, config.gate, longest)


def _require_store(run: TrainedRun) -> None:
    """Told before the minutes of building."""
    if not run.data.store.startswith("s3://") and not Path(run.data.store).exists():
        raise FoldlineError(
            f"the gate folds proteins of the run's store, and '{run.data.store}' (data.store of {run.path / 'config.json'}) is not there; "
            "run from the folder that the training ran in, or put the store back"
        )


def _bench(
    run: TrainedRun, folder: Path, engine: dict[str, Any], selection: Selection, config: ExportConfig, stage: Callable[[str], None]
) -> BenchReport | None:
    if not config.bench.repeats:
        return None
    passes = config.gate.recycles + 1
    given = contenders(run.weights, run.model, (engine["name"], partial(open_runner, folder, engine, run.model)))
    return run_bench(given, selection, run.features, passes, config.bench, on_step=lambda text: stage(f"bench: {text}"))


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
        "gate": to_dict(config.gate),
        "versions": package_versions(),
        **{kind: {name: [field.kind, *field.dims] for name, field in schema.items()} for kind, schema in schemas.items()},
    }


def _stage_printer(console: Console) -> Callable[[str], None]:
    start = time.monotonic()

    def show(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - start:6.1f} s[/]  {escape(text)}", soft_wrap=True)

    return show


def _gate_table(report: GateReport) -> Table:
    table = Table(title=f"gate: {report.engine} against {report.reference}, float32", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("worst of", "on", "value", "limit"):
        table.add_column(heading, justify="right" if heading in ("value", "limit") else "left")
    for check in report.worst.values():
        table.add_row(check.name, check.protein, f"{check.value:.2g}{check.unit}", f"{check.limit:g}{check.unit}")
    return table
