"""The tracks of a chain along its sequence: coverage, conservation coloured by burial, secondary structure, pLDDT."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.patches import FancyArrow, Rectangle

from .contacts import burial
from .view import ChainView

_HELIX, _STRAND, _LINE = "#c8553d", "#e0a458", "#555555"
_BURIED = 24.0  # neighbours within 10 Å of a residue in a core; the end of the colours
_COLOURS = "viridis_r"
# AlphaFold DB's bands of confidence.
_CONFIDENCE = ((90.0, "#0053d6"), (70.0, "#65cbf3"), (50.0, "#ffdb13"), (0.0, "#ff7d45"))


def track_heights(view: ChainView) -> list[float]:
    """The relative height of each track: coverage, conservation, secondary structure, and pLDDT where the chain is a prediction."""
    return [0.75, 1.0, 0.28] + ([0.55] if view.record.plddt is not None else [])


def draw_tracks(view: ChainView, panels: Sequence[Axes]) -> None:
    """Fill one panel per track, in the order of ``track_heights``; the last bears the residue numbers."""
    _draw_coverage(view, panels[0])
    _draw_conservation(view, panels[1])
    _draw_secondary(view, panels[2])
    if view.record.plddt is not None:
        _draw_confidence(view, panels[3])
    for axes in panels:
        axes.set_xlim(0.5, view.length + 0.5)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("residue")


def _draw_coverage(view: ChainView, axes: Axes) -> None:
    edges = np.arange(view.length + 1) + 0.5
    axes.stairs(view.coverage, edges, fill=True, color="#9fbfd8")
    axes.stairs(view.coverage, edges, color="#3c6e91", linewidth=1)
    axes.set_ylim(0, 1.03)
    axes.set_ylabel("coverage")
    if not view.has_homologs:
        _say(axes, "query alone")


def _draw_conservation(view: ChainView, axes: Axes) -> None:
    """Bars of conservation; dark where the residue is buried, grey where there are no coordinates."""
    axes.set_ylim(0, 1)
    axes.set_ylabel("conservation")
    if not view.has_homologs:
        _say(axes, "query alone: no conservation to see")
        return
    buried = burial(view.distances)
    scale = ScalarMappable(Normalize(0, _BURIED), _COLOURS)
    colours = scale.to_rgba(np.nan_to_num(buried))
    colours[np.isnan(buried)] = (0.72, 0.72, 0.72, 1.0)
    axes.bar(np.arange(1, view.length + 1), view.conservation, width=0.9 if view.length < 400 else 1.0, color=colours)
    if view.has_structure:
        _burial_key(axes, scale.get_cmap())


def _burial_key(axes: Axes, colours: Colormap) -> None:
    key = axes.inset_axes((0.80, 0.86, 0.10, 0.07))
    key.imshow(np.linspace(0, 1, 64)[None], aspect="auto", cmap=colours)
    key.set_axis_off()
    for x, text, side in ((-0.06, "exposed", "right"), (1.06, "buried", "left")):
        key.text(x, 0.4, text, transform=key.transAxes, ha=side, va="center", fontsize=7.5)


def _draw_secondary(view: ChainView, axes: Axes) -> None:
    """Helices as boxes, strands as arrows, coil as a line; nothing where there are no coordinates."""
    axes.set_ylim(-1, 1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    if not view.has_structure:
        _say(axes, "no structure")
        return
    observed: np.ndarray = np.any(view.record.mask, axis=1)
    place = 1
    for (seen, letter), run in itertools.groupby(zip(observed.tolist(), view.secondary, strict=True)):
        size = len(list(run))
        if seen:
            _draw_element(axes, letter, place - 0.5, size)
        place += size
    axes.set_ylabel("helix\nstrand", fontsize=8, rotation=0, ha="right", va="center")


def _draw_element(axes: Axes, letter: str, start: float, size: int) -> None:
    if letter == "H":
        axes.add_patch(Rectangle((start, -0.6), size, 1.2, facecolor=_HELIX, edgecolor="white", linewidth=0.5))
    elif letter == "E":
        head = min(2.0, size * 0.6)
        axes.add_patch(
            FancyArrow(
                start, 0, size, 0, width=0.7, head_width=1.5, head_length=head, length_includes_head=True, color=_STRAND, linewidth=0
            )
        )
    else:
        axes.plot([start, start + size], [0, 0], color=_LINE, linewidth=1.2)


def _draw_confidence(view: ChainView, axes: Axes) -> None:
    plddt = view.record.plddt
    assert plddt is not None
    colours = [next(colour for floor, colour in _CONFIDENCE if value >= floor) for value in np.maximum(plddt, 0.0)]
    axes.bar(np.arange(1, view.length + 1), plddt, width=1.0, color=colours)
    axes.set_ylim(0, 100)
    axes.set_ylabel("pLDDT")


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=9, color="#777777")
