"""Pictures of a run, as PNG files: distance maps of folded chains, curves of the journal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .journal import Record
from .validate import ChainScore

FARTHEST = 30.0  # ångström; the end of the distance maps' colours
SMOOTHED = 40  # points that a smoothed curve keeps


def draw_distance_map(score: ChainScore, step: int, path: Path) -> None:
    """Cα distances: the truth below the diagonal, the prediction above it; residues without truth are left white."""
    true, predicted = _distances(score.true), _distances(score.predicted)
    true[~(score.mask[:, None] * score.mask[None, :] > 0)] = np.nan
    both = np.where(np.tri(len(true), dtype=bool), true, predicted)
    figure, axes = _figure(5.4, 4.8)
    ends = (0.5, len(both) + 0.5)  # residues count from 1
    extent = (*ends, *ends[::-1])
    image = axes.imshow(both, cmap="viridis_r", vmin=0, vmax=FARTHEST, interpolation="nearest", extent=extent)
    axes.set_title(f"{score.chain_id} ({score.split}) at step {step}\nlDDT-Cα {score.lddt:.3f}, pLDDT {score.plddt:.1f}", fontsize=10)
    axes.set_xlabel("residue; above the diagonal: predicted")
    axes.set_ylabel("residue; below the diagonal: true")
    figure.colorbar(image, ax=axes, label="Cα distance (Å)")
    _save(figure, path)


def draw_curves(history: Sequence[Record], path: Path) -> None:
    """Loss and lDDT-Cα over steps: each training step faint, its moving mean strong, validations as marked lines."""
    train = [record for record in history if record.kind == "train"]
    validations = [record for record in history if record.kind == "validate"]
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    loss, lddt = figure.subplots(1, 2)
    for axes, name, label in ((loss, "loss/total", "loss"), (lddt, "train/lddt_ca", "lDDT-Cα of training crops")):
        steps = np.array([record.step for record in train])
        values = np.array([record.metrics.get(name, np.nan) for record in train])
        axes.plot(steps, values, color="tab:blue", alpha=0.25, linewidth=0.8)
        faint = "" if len(steps) <= SMOOTHED else ", mean; faint: each step"
        axes.plot(*_smooth(steps, values), color="tab:blue", label=f"{label}{faint}")
        axes.set_xlabel("step")
    for split, colour in (("trained", "tab:green"), ("validation", "tab:red")):
        name = f"validate/{split}/lddt_ca"
        points = [(record.step, record.metrics[name]) for record in validations if name in record.metrics]
        if points:
            lddt.plot(*zip(*points, strict=True), "o-", color=colour, label=f"{split} chains, averaged weights")
    loss.set_ylabel("loss")
    lddt.set_ylabel("lDDT-Cα")
    lddt.set_ylim(0, 1)
    for axes in (loss, lddt):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    _save(figure, path)


def _distances(points: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(points[:, None] - points[None, :], axis=-1))


def _smooth(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of neighbouring points, at most ``SMOOTHED`` of them."""
    if len(steps) <= SMOOTHED:
        return steps, values
    parts = [part for part in np.array_split(np.arange(len(steps)), SMOOTHED) if np.isfinite(values[part]).any()]
    return np.array([steps[part].mean() for part in parts]), np.array([np.nanmean(values[part]) for part in parts])


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
