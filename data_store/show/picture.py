"""A chain as one picture: the alignment and its tracks on the left, co-evolution against the true contacts on the right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch

from ..residues import RESTYPES
from .contact_panels import draw_contacts, draw_distances, draw_precision
from .tracks import draw_tracks, track_heights
from .view import ChainView

_WIDTH, _HEIGHT, _DPI = 13.33, 7.5, 110  # inches: a 16:9 slide
_MOST_ROWS = 600  # rows of the alignment that are drawn; more could not be told apart
# By chemistry, as alignment viewers do: aliphatic, aromatic, positive, negative, polar, and the three that stand alone.
_GROUPS = {
    "AVILM": "#5b8db8",
    "FWYH": "#4aa39a",
    "KR": "#c8553d",
    "DE": "#8e5ea2",
    "STNQ": "#8fb56a",
    "G": "#e0a458",
    "P": "#d9c650",
    "C": "#d67ab1",
}
_UNKNOWN, _GAP = "#9a9a9a", "#ffffff"


def draw_chain(view: ChainView, path: Path) -> None:
    """Write the picture of a chain to ``path`` (PNG). What the chain does not have (homologs, coordinates) is said in its place."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(view), x=0.008, ha="left", fontsize=11.5, fontweight="bold")
    halves = figure.add_gridspec(1, 2, width_ratios=[1.12, 1.0], wspace=0.01)
    left, right = (figure.add_subfigure(halves[side]) for side in (0, 1))
    _draw_left(view, left)
    _draw_right(view, right)
    figure.savefig(path, dpi=_DPI, metadata={"Software": "foldline"})


def _title(view: ChainView) -> str:
    data, record = view.record.metadata, view.record
    parts = [data.chain_id, f"{view.length} residues"]
    if view.has_homologs:
        parts.append(f"{view.alignment.total:,} rows, N_eff {view.alignment.n_eff:.0f}")
    if data.resolution > 0:
        parts.append(f"{data.resolution:.2f} Å")
    if record.plddt is not None:
        parts.append(f"mean pLDDT {record.plddt.mean():.0f}")
    title = data.title if len(data.title) <= 70 else data.title[:69] + "…"
    return "   ·   ".join([*parts, title] if title else parts)


def _draw_left(view: ChainView, figure: SubFigure) -> None:
    """The alignment above its tracks, all on one axis of residues."""
    heights = track_heights(view)
    panels = figure.subplots(len(heights) + 1, 1, sharex=True, height_ratios=[2.1, *heights])
    _draw_alignment(view, panels[0])
    draw_tracks(view, panels[1:])


def _draw_right(view: ChainView, figure: SubFigure) -> None:
    """The contact map above the distances and the precision."""
    halves = figure.add_gridspec(2, 1, height_ratios=[1.75, 1.0])
    upper, lower = (figure.add_subfigure(halves[side]) for side in (0, 1))
    draw_contacts(view, upper.subplots())
    distances, precision = lower.subplots(1, 2)
    draw_distances(view, distances)
    draw_precision(view, precision)


def _draw_alignment(view: ChainView, axes: Axes) -> None:
    """Rows by falling identity to the query, coloured by chemistry; gaps are white."""
    rows = view.alignment.rows
    order = np.argsort(-view.identities, kind="stable")
    if len(order) > _MOST_ROWS:
        order = order[np.linspace(0, len(order) - 1, _MOST_ROWS).astype(int)]
    axes.imshow(
        rows[order],
        cmap=_palette(),
        vmin=0,
        vmax=21,
        aspect="auto",
        interpolation="nearest" if view.length < 700 else "antialiased",
        extent=(0.5, view.length + 0.5, len(order), 0),
    )
    ticks = np.linspace(0, len(order) - 1, min(5, len(order))).astype(int)
    axes.set_yticks(ticks + 0.5, [f"{view.identities[order[tick]]:.0%}" for tick in ticks])
    axes.set_ylabel("identity to the query")
    axes.tick_params(labelsize=8, labelbottom=False)
    drawn = f", {len(order):,} of {view.alignment.total:,} rows" if len(order) < view.alignment.total else ""
    axes.set_title(f"Alignment, rows by identity{drawn}" if view.has_homologs else "The query alone: no alignment", loc="left", fontsize=10)
    handles = [Patch(color=colour) for colour in _GROUPS.values()]
    axes.legend(
        handles, list(_GROUPS), ncols=8, loc="upper center", bbox_to_anchor=(0.5, -0.005), fontsize=7.5, frameon=False, handlelength=1
    )


def _palette() -> ListedColormap:
    """One colour for each of the 22 residue types."""
    by_letter = {letter: colour for letters, colour in _GROUPS.items() for letter in letters}
    return ListedColormap([*(by_letter[letter] for letter in RESTYPES), _UNKNOWN, _GAP])
