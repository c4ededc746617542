"""The square panels of a chain's picture: co-evolution against contacts, distances, precision over the number of pairs."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from .contacts import CONTACT, SEPARATION, contact_rate, precision
from .view import ChainView

_FARTHEST = 30.0  # ångström; the end of the distance map's colours
_HIT, _MISS, _TRUE = "#1a9850", "#d73027", "#4d4d4d"


def draw_contacts(view: ChainView, axes: Axes) -> None:
    """Above the diagonal the strength of co-evolution and its strongest pairs, right ones green; below it the true contacts."""
    length = view.length
    _frame(axes, length)
    axes.set_title("L strongest co-evolving pairs (above), true contacts (below)", loc="left", fontsize=10)
    if view.has_homologs:
        _draw_scores(view, axes)
    else:
        axes.text(
            0.97, 0.97, "query alone:\nno co-evolution to see", transform=axes.transAxes, ha="right", va="top", fontsize=9, color="#777777"
        )
    if view.has_structure:
        _draw_true(view, axes)
    else:
        axes.text(0.03, 0.03, "no structure", transform=axes.transAxes, ha="left", va="bottom", fontsize=9, color="#777777")
    axes.plot([0.5, length + 0.5], [0.5, length + 0.5], color="#aaaaaa", linewidth=0.8)
    if axes.get_legend_handles_labels()[0]:
        enlarge = max(1.0, (24 / _size(length)) ** 0.5)
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.045), ncols=4, fontsize=8, frameon=False, markerscale=enlarge, columnspacing=1.2
        )


def _draw_true(view: ChainView, axes: Axes) -> None:
    """Contacts below the diagonal: grey, green where one of the L strongest pairs found it."""
    with np.errstate(invalid="ignore"):
        true = np.tril(view.distances < CONTACT, -SEPARATION)
    found = np.zeros_like(true)
    for pair in view.pairs(view.length):
        found[pair.j, pair.i] = pair.in_contact
    for marks, colour, name in ((true & ~found, _TRUE, "true contact"), (found, _HIT, "")):
        i, j = np.nonzero(marks)
        axes.scatter(j + 1, i + 1, s=_size(view.length), marker="s", color=colour, linewidths=0, label=name or None)


def _draw_scores(view: ChainView, axes: Axes) -> None:
    """Scores as a blue background, the L strongest pairs as marks."""
    length = view.length
    shown = np.where(np.triu(np.ones((length, length), bool), SEPARATION), view.scores, np.nan)
    known = shown[~np.isnan(shown)]
    if not len(known):
        return
    top = max(float(np.quantile(known, 0.999)), 1e-6)
    axes.imshow(
        shown, cmap="Blues", vmin=0, vmax=top, origin="upper", extent=(0.5, length + 0.5, length + 0.5, 0.5), interpolation="nearest"
    )
    pairs = view.pairs(length)
    groups = (
        ("in contact", _HIT, "o", [pair for pair in pairs if pair.in_contact]),
        ("not in contact", _MISS, "x", [pair for pair in pairs if pair.distance >= CONTACT]),
        ("distance not known", "#777777", "+", [pair for pair in pairs if np.isnan(pair.distance)]),
    )
    for name, colour, marker, chosen in groups:
        if chosen:
            x, y = [pair.j + 1 for pair in chosen], [pair.i + 1 for pair in chosen]
            axes.scatter(
                x,
                y,
                s=1.6 * _size(length),
                marker=marker,
                color=colour,
                linewidths=1.0 if marker != "o" else 0,
                label=f"{name}: {len(chosen)}",
            )


def draw_distances(view: ChainView, axes: Axes) -> None:
    """Distances between Cβ atoms; white where they are not known."""
    _frame(axes, view.length)
    axes.set_title("Cβ–Cβ distance (Å)", loc="left", fontsize=10)
    if not view.has_structure:
        axes.text(0.5, 0.5, "no structure", transform=axes.transAxes, ha="center", va="center", fontsize=9, color="#777777")
        return
    edge = view.length + 0.5
    image = axes.imshow(view.distances, cmap="viridis_r", vmin=0, vmax=_FARTHEST, extent=(0.5, edge, edge, 0.5), interpolation="nearest")
    axes.figure.colorbar(image, ax=axes, shrink=0.85, pad=0.02).ax.tick_params(labelsize=7)


def draw_precision(view: ChainView, axes: Axes) -> None:
    """Precision of the strongest pairs over how many are taken, with what guessing reaches."""
    axes.set_title("Precision of the strongest pairs", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    if not (view.has_homologs and view.has_structure):
        missing = "no structure" if view.has_homologs else "no co-evolution"
        axes.text(0.5, 0.5, missing, transform=axes.transAxes, ha="center", va="center", fontsize=9, color="#777777")
        axes.set_xticks([])
        axes.set_yticks([])
        return
    counts = np.unique(np.geomspace(5, max(2 * view.length, 6), 40).astype(int))
    for separation, colour in ((SEPARATION, "#3c6e91"), (24, "#e07b39")):
        values = [precision(view.scores, view.distances, int(count), separation) for count in counts]
        axes.plot(counts / view.length, values, color=colour, label=f"|i − j| ≥ {separation}")
        axes.axhline(contact_rate(view.distances, separation), color=colour, linestyle=":", linewidth=1)
    axes.set_xlim(0, 2)
    axes.set_ylim(0, 1)
    axes.set_xlabel("pairs taken / L", fontsize=9)
    axes.legend(fontsize=8, frameon=False, title="dotted: by chance", title_fontsize=8)


def _frame(axes: Axes, length: int) -> None:
    axes.set_xlim(0.5, length + 0.5)
    axes.set_ylim(length + 0.5, 0.5)
    axes.set_aspect("equal")
    axes.tick_params(labelsize=8)


def _size(length: int) -> float:
    """Area in points² of a mark that covers about one cell of the map."""
    return max(1.0, (290.0 / length) ** 2)
