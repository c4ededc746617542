"""The picture of a report's calibration: what was predicted against what came true, for each confidence and split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .validation_report import Report

COLOURS = {"trained": "tab:green", "validation": "tab:red"}
KINDS = {
    "plddt": ("predicted pLDDT", "lDDT-Cα × 100, mean of the bin", 100.0, "residues"),
    "pae": ("expected aligned error (Å)", "aligned error (Å), mean of the bin", 32.0, "pairs"),
}


def draw_calibration(report: Report, path: Path) -> None:
    """One panel per confidence that the report has; on the diagonal a confidence means what it says."""
    kinds = [kind for kind in KINDS if any(kind in found["calibration"] for found in report["splits"].values())]
    if not kinds:
        return
    figure = Figure(figsize=(4.8 * len(kinds), 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(kinds), squeeze=False, sharex="col", height_ratios=[4, 1])
    for (above, below), kind in zip(panels.T, kinds, strict=True):
        x_label, y_label, top, counted = KINDS[kind]
        above.plot([0, top], [0, top], color="0.6", linewidth=1, linestyle="--")
        for split, found in report["splits"].items():
            if kind in found["calibration"]:
                _draw_split(above, below, split, found["calibration"][kind])
        above.set(ylabel=y_label, ylim=(0, top), xlim=(0, top))
        below.set(xlabel=x_label, ylabel=f"share of\n{counted}")
        above.grid(alpha=0.3)
        above.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    figure.suptitle(f"calibration at step {report['step']}", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _draw_split(above: Axes, below: Axes, split: str, found: dict[str, Any]) -> None:
    rows, colour = found["table"], COLOURS[split]
    counts = np.array([row["count"] for row in rows])
    label = f"{split}: error {_text(found['error'])}, r {_text(found['correlation'])}"
    above.plot([row["predicted"] for row in rows], [row["actual"] for row in rows], "o-", color=colour, markersize=4, label=label)
    width = [row["to"] - row["from"] for row in rows]
    below.bar([row["from"] for row in rows], counts / counts.sum(), width, align="edge", color=colour, alpha=0.45)


def _text(value: dict[str, Any]) -> str:
    if value["mean"] is None:
        return "–"
    interval = "" if value["low"] is None else f" ({value['low']:.2f} to {value['high']:.2f})"
    return f"{value['mean']:.2f}{interval}"
