"""What a validation leaves in the run directory: a journal line, a report, tables, pictures; and the lines that are printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data_store.store import Store
from ..whole_file import write_atomic
from .config import RunConfig
from .journal import Journal, read_journal
from .measures import SET, SPLITS
from .rundir import RunDir
from .score import ChainScore
from .structures import FoldedChain, write_structures
from .tables import append_table
from .validation_report import Report, chain_table, journal_means, make_report
from .validation_set import ValidationSet

TOLD = ("lddt_ca", "lddt_all", "tm", "plddt", "rmsd_ca")  # measures of the printed line
SHOWN = {"lDDT-Cα": "lddt_ca", "RMSD (Å)": "rmsd_ca", "pLDDT": "plddt", "TM": "tm"}  # measures on the page of structures


def report_path(run: RunDir, step: int) -> Path:
    """``RUN/validation/step_00000100.json``."""
    return run.validation / f"step_{step:08d}.json"


def read_report(run: RunDir, step: int) -> Report | None:
    """The report on ``step``, None where there is none that can be read."""
    try:
        return dict(json.loads(report_path(run, step).read_text()))
    except (OSError, ValueError):
        return None


class ValidationFiles:
    """Writes validations of one run. ``journal`` is this writer's own; ``whole``: also what a run has once (summary, pictures, tables)."""

    def __init__(self, config: RunConfig, run: RunDir, journal: Journal, store: Store, *, whole: bool) -> None:
        self._config = config
        self._run = run
        self._journal = journal
        self._store = store
        self._whole = whole

    def write(self, step: int, scores: Sequence[ChainScore], chains: ValidationSet, weights: str) -> list[str]:
        """Leave everything; returns lines to print. ``weights``: sha256 of the file that was validated, "" for the training's own."""
        report = make_report(scores, chains.digest, step, weights)
        means = journal_means(report)
        lines = [*self._changed(chains), f"validation at step {step}: {_told(report)}"]
        self._journal.append("validate", step, means | {SET: chains.number})
        try:
            write_atomic(report_path(self._run, step), json.dumps(report, indent=1, allow_nan=False) + "\n")
            write_atomic(report_path(self._run, step).with_suffix(".csv"), chain_table(report))
            if self._whole:
                self._summarise(report, means)
                self._draw(report, scores)
        except OSError as error:
            again = f"once there is room: foldline validate --run {self._run.root}"
            lines.append(f"not all files of this validation are written ({error}); {again}")
        return lines

    def _changed(self, chains: ValidationSet) -> list[str]:
        """A line where the run's validations so far were of other chains or features."""
        before = [r.metrics[SET] for r in read_journal(self._run.journal) if r.kind == "validate" and SET in r.metrics]
        if not before or before[-1] == chains.number:
            return []
        was = f"{int(before[-1]):012x}"
        return [
            f"the validation set is another one than before ({chains.digest[:12]}, was {was}); its results do not compare with earlier ones"
        ]

    def _summarise(self, report: Report, means: dict[str, float]) -> None:
        try:
            kept = json.loads(self._run.summary.read_text())
        except (OSError, ValueError):
            kept = {}
        about = {"step": report["step"], "set": report["set"], **means, "chains": report["chains"]}
        kept["after" if report["step"] else "before"] = about
        write_atomic(self._run.summary, json.dumps(kept, indent=2, allow_nan=False) + "\n")
        append_table(self._run.table, report["step"], report["chains"])

    def _draw(self, report: Report, scores: Sequence[ChainScore]) -> None:
        # Here, so that matplotlib is loaded by the rank that draws, and once it does.
        from .calibration_plot import draw_calibration
        from .plots import draw_curves, draw_distance_map

        step, pictured = report["step"], scores[: self._config.validate.pictures]
        for score in pictured:
            draw_distance_map(score, step, self._run.plots / f"distances_{score.chain_id}.png")
        write_structures(self._run.root, step, [self._folded(score) for score in pictured])
        draw_curves(read_journal(self._run.journal), self._run.plots / "curves.png")
        draw_calibration(report, self._run.plots / "calibration.png")

    def _folded(self, score: ChainScore) -> FoldedChain:
        sequence, scores = self._store.record(score.chain_id).sequence, {label: score.values[name] for label, name in SHOWN.items()}
        return FoldedChain(score.chain_id, score.split, sequence, score.predicted, score.true, score.mask, scores)


def table(report: Report) -> list[str]:
    """The report as lines of text: a measure per line, each split's mean and interval."""
    lines = []
    for split, found in report["splits"].items():
        lines.append(f"{split}: {found['chains']} chains")
        of_set = {f"{kind}_{name}": found["calibration"][kind][name] for kind in found["calibration"] for name in ("error", "correlation")}
        for name, value in (found["measures"] | of_set).items():
            lines.append(f"  {name:18} {_shown(value)}")
    return lines


def _told(report: Report) -> str:
    parts = [
        f"{split} {name} {value['mean']:.3f}"
        for split in SPLITS
        for name in TOLD
        if (value := report["splits"].get(split, {"measures": {}})["measures"].get(name)) and value["mean"] is not None
    ]
    return ", ".join(parts) or "no chains"


def _shown(value: dict[str, Any]) -> str:
    if value["mean"] is None:
        return "–"
    interval = "" if value["low"] is None else f"  ({value['low']:.4g} to {value['high']:.4g})"
    return f"{value['mean']:.4g}{interval}"
