"""``foldline fold``: proteins through a bundle -> mmCIF, PDB, PAE json, scores and a page each."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from .. import __version__
from ..data_store.config import FeatureConfig
from ..data_store.features.msa import merge_msas
from ..data_store.featurize import inference_cycles
from ..data_store.fold_input import read_fold_input
from ..data_store.fold_templates import with_templates
from ..data_store.types import ChainRecord, FeatureBatch
from ..errors import FoldlineError
from .bundle import Bundle
from .comparison import Comparison, compare
from .confidence import confidence_of
from .core import Core
from .engine_store import Engine
from .engines import choose, open_engine
from .recycling import recycle
from .report import Report, index_html, report_html
from .runners import Runner
from .structures import Structure, pae_json, write_structures


@dataclass(frozen=True)
class Passes:
    """How often the network runs: at most ``recycles`` + 1 times, stopping early as ``recycling.recycle`` says."""

    recycles: int = 3
    tolerance: float = 0.0  # ångström; 0 = every pass is made


@dataclass(frozen=True)
class Prediction:
    """One folded protein. ``pae`` [N_res, N_res] in ångström, None without that head; ``timings`` in seconds, in order."""

    structure: Structure
    pae: np.ndarray | None
    pae_max: float
    comparison: Comparison | None
    timings: tuple[tuple[str, float], ...]
    passes: int
    change: float | None  # of the Cα distances by the last pass, ångström; None after a single pass

    @property
    def scores(self) -> dict[str, float | int | str | None]:
        """The numbers that ``NAME_scores.json`` and ``summary.json`` hold."""
        comparison = self.comparison
        return {
            "name": self.structure.name,
            "residues": len(self.structure.aatype),
            "passes": self.passes,
            "distance_change": None if self.change is None else round(self.change, 4),
            "mean_plddt": round(float(self.structure.plddt.mean()), 3),
            "ptm": None if self.structure.ptm is None else round(self.structure.ptm, 4),
            "lddt_ca": None if comparison is None else round(comparison.lddt_ca, 4),
            "rmsd": None if comparison is None else round(comparison.rmsd, 3),
            "seconds": round(sum(seconds for _, seconds in self.timings), 3),
        }


def fold_command(
    source: Path,
    bundle: Path,
    out: Path,
    passes: Passes,
    seed: int,
    *,
    engine: str = "auto",
    templates: Path | None = None,
    max_template_date: str = "",
) -> int:
    """Fold everything in ``source`` into ``out``; 0, or FoldlineError before anything is written for bad input."""
    console = Console(highlight=False)
    check_passes(passes)
    if seed < 0:
        raise FoldlineError(f"--seed {seed} must not be negative")
    if out.exists() and not out.is_dir():
        raise FoldlineError(f"{out} is a file; give --out a folder, which is made where it is not there: files are never overwritten")
    if out.exists() and any(out.iterdir()):
        raise FoldlineError(f"{out} is not empty; results are never overwritten: give another --out or remove it first")
    records = read_fold_input(source)
    if templates is not None:
        records, notes = with_templates(records, source, templates, max_template_date)
        for note in notes:
            console.print(note, markup=False, soft_wrap=True)
    elif max_template_date:
        raise FoldlineError(f"--max-template-date {max_template_date} limits templates, but no folder of them is given; add --templates")
    opened = Bundle.open(bundle)
    core = Core.of(opened)
    choice = choose(opened, engine, max(len(record.sequence) for record in records))
    console.print(f"engine {choice.engine.label}: {choice.reason}", markup=False, soft_wrap=True)
    runner = open_engine(core, choice.engine)
    scores = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("passes"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for record in records:
            name = record.metadata.chain_id
            task = progress.add_task(f"{name}, {len(record.sequence)} residues", total=passes.recycles + 1)
            prediction = predict(runner, record, core.features, passes, seed, partial(_advance, progress, task))
            write_results(out, prediction, record, provenance(opened, choice.engine, record, passes, seed))
            scores.append(prediction.scores)
            progress.remove_task(task)
    write_overview(out, scores)
    console.print(_table(scores))
    console.print(f"[bold]{escape(str(out / 'index.html'))}[/]", soft_wrap=True)
    return 0


def predict(
    runner: Runner,
    record: ChainRecord,
    features: FeatureConfig,
    passes: Passes,
    seed: int,
    on_pass: Callable[[int], None] = lambda done: None,
) -> Prediction:
    """Fold one chain; ``on_pass`` is told the number of passes done. Equal seeds give equal results."""
    clock = _Clock()
    cycles: Sequence[FeatureBatch] = inference_cycles(record, features, seed, passes.recycles + 1)
    clock.lap("features")

    def passed(done: int) -> None:
        clock.lap(f"pass {done}")
        on_pass(done)

    folded = recycle(runner, cycles, passes.tolerance, passed)
    outputs = folded.outputs
    broken = [name for name, value in outputs.items() if not np.isfinite(value).all()]
    if broken:
        raise FoldlineError(
            f"{record.metadata.chain_id}: the {runner.name} engine returned values that are not finite in {', '.join(broken)}; "
            "fold with another engine of the bundle (--engine) to compare, and export the weights again"
        )
    confidence = confidence_of(outputs, runner.config.heads)
    structure = Structure(
        name=record.metadata.chain_id,
        aatype=record.aatype,
        residue_index=record.residue_index,
        positions=outputs["positions"],
        atom_mask=outputs["atom_mask"],
        plddt=confidence.plddt,
        ptm=confidence.ptm,
        title=record.metadata.title,
        model_name=f"Foldline {__version__}, {runner.name}",
    )
    comparison = compare(structure.positions, record.positions, record.mask)
    clock.lap("confidence")
    return Prediction(structure, confidence.pae, confidence.pae_max, comparison, tuple(clock.laps), folded.passes, folded.change)


def check_passes(passes: Passes) -> None:
    """Raise FoldlineError for negative numbers, and for a tolerance that is none."""
    if passes.recycles < 0:
        raise FoldlineError(f"--recycles {passes.recycles} must not be negative; 0 is a single pass")
    if not 0 <= passes.tolerance < float("inf"):
        raise FoldlineError(f"--tolerance {passes.tolerance} must be 0 (make every pass) or a positive number of ångström")


def provenance(bundle: Bundle, engine: Engine, record: ChainRecord, passes: Passes, seed: int) -> list[tuple[str, str]]:
    """Where a result comes from, as (key, value) pairs."""
    manifest: dict[str, Any] = dict(bundle.manifest)
    versions = ", ".join(f"{name} {version}" for name, version in engine.depends["versions"].items())
    alignments = ", ".join(f"{msa.name} ({len(msa.rows)} rows)" for msa in record.msas)
    return [
        ("bundle", bundle.identity),
        ("weights", manifest["weights"]["sha256"]),
        ("training step", manifest["weights"].get("step", "not recorded")),
        ("engine", f"{engine.kind} {engine.precision} on {engine.device}, {versions}"),
        ("engine identity", engine.identity),
        ("passes asked for", str(passes.recycles + 1)),
        ("recycling tolerance", f"{passes.tolerance:g} Å" if passes.tolerance else "none"),
        ("seed", str(seed)),
        ("alignments", alignments),
        ("Foldline", __version__),
    ]


def write_results(out: Path, prediction: Prediction, record: ChainRecord, origin: Sequence[tuple[str, str]]) -> Path:
    """``out``/NAME with all files of one protein; the folder appears when all are written."""
    name = prediction.structure.name
    unfinished = out / f".{name}.partial"
    try:
        unfinished.mkdir(parents=True)
        write_structures(prediction.structure, unfinished)
        if prediction.pae is not None:
            (unfinished / f"{name}_pae.json").write_text(pae_json(prediction.pae, prediction.pae_max))
        plddt = [round(float(value), 2) for value in prediction.structure.plddt]
        scores = prediction.scores | {"timings": dict(prediction.timings), "provenance": dict(origin), "plddt": plddt}
        (unfinished / f"{name}_scores.json").write_text(json.dumps(scores, indent=1) + "\n")
        rows, _ = merge_msas(record.msas)
        page = Report(prediction.structure, rows, prediction.timings, origin, prediction.pae, prediction.pae_max, prediction.comparison)
        (unfinished / f"{name}.html").write_text(report_html(page), encoding="utf-8")
        unfinished.rename(out / name)
    except OSError as error:
        raise FoldlineError(f"cannot write results to {out}: {error.strerror or error}; give a folder that can be written") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return out / name


def write_overview(out: Path, scores: Sequence[dict[str, Any]]) -> None:
    """``summary.json`` and ``index.html`` over all proteins of one call."""
    (out / "summary.json").write_text(json.dumps(scores, indent=1) + "\n")
    rows = [_shown(row) | {"link": f"{row['name']}/{row['name']}.html"} for row in scores]
    (out / "index.html").write_text(index_html(rows), encoding="utf-8")


def _advance(progress: Progress, task: TaskID, done: int) -> None:
    progress.update(task, completed=done)


class _Clock:
    """Laps of a wall clock, in seconds."""

    def __init__(self) -> None:
        self.laps: list[tuple[str, float]] = []
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps.append((name, now - self._last))
        self._last = now


def _shown(scores: dict[str, Any]) -> dict[str, str]:
    def number(key: str, form: str, factor: float = 1.0) -> str:
        return "" if scores[key] is None else format(scores[key] * factor, form)

    return {
        "protein": str(scores["name"]),
        "residues": str(scores["residues"]),
        "mean pLDDT": number("mean_plddt", ".1f"),
        "pTM": number("ptm", ".2f"),
        "lDDT-Cα": number("lddt_ca", ".1f", 100.0),
        "RMSD (Å)": number("rmsd", ".2f"),
        "seconds": number("seconds", ".1f"),
    }


def _table(scores: Sequence[dict[str, Any]]) -> Table:
    rows = [_shown(row) for row in scores]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading == "protein" else "right")
    for row in rows:
        table.add_row(*row.values())
    return table
