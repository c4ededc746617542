"""The contact map of a chain as text: true contacts below the diagonal, the strongest co-evolving pairs above."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.text import Text

from .contacts import CONTACT, SEPARATION
from .marks import braille, shrink
from .view import ChainView

_WIDEST = 120  # characters


def contact_map_lines(view: ChainView, width: int, unicode: bool) -> Iterator[Text]:
    """The map with its legend; ``width`` columns are to hand. A chain that does not fit is drawn coarser."""
    if view.length <= SEPARATION:
        return
    pairs = view.pairs(view.length)
    hits = _matrix(view.length, [(p.i, p.j) for p in pairs if p.in_contact])
    misses = _matrix(view.length, [(p.i, p.j) for p in pairs if not p.in_contact])
    i, j = np.indices(view.distances.shape)
    with np.errstate(invalid="ignore"):
        true = (view.distances < CONTACT) & (i - j >= SEPARATION)
    above = "hits green, others red" if view.has_structure else "nothing to compare with"
    yield Text(f"contact map: above the diagonal the {len(pairs)} strongest pairs ({above}), below it the true contacts")
    columns = min(width - 2, _WIDEST)
    yield from _braille_map(true, hits, misses, columns, view) if unicode else _ascii_map(true, hits, misses, columns)


def _matrix(length: int, places: list[tuple[int, int]]) -> np.ndarray:
    matrix = np.zeros((length, length), bool)
    if places:
        matrix[tuple(np.array(places).T)] = True
    return matrix


def _braille_map(true: np.ndarray, hits: np.ndarray, misses: np.ndarray, columns: int, view: ChainView) -> Iterator[Text]:
    size = min(len(true), 2 * columns)
    dots = {name: shrink(part, size, size) for name, part in (("true", true), ("hits", hits), ("misses", misses))}
    diagonal = np.eye(size, dtype=bool)
    lines = braille(dots["true"] | dots["hits"] | dots["misses"] | diagonal)
    green, red = (_any_dot(dots[name]) for name in ("hits", "misses"))
    for row, line in enumerate(lines):
        text = Text("  " + line, style="default")
        for column in range(len(line)):
            if green[row, column] or red[row, column]:
                text.stylize("green" if green[row, column] else "red" if view.has_structure else "cyan", column + 2, column + 3)
        yield text


def _any_dot(dots: np.ndarray) -> np.ndarray:
    """bool: which braille characters of a matrix hold a dot."""
    return np.array([[character != "\u2800" for character in line] for line in braille(dots)])


def _ascii_map(true: np.ndarray, hits: np.ndarray, misses: np.ndarray, columns: int) -> Iterator[Text]:
    """'#' true contact, 'o' a predicted one that is true, 'x' another, '\\' the diagonal; a character stands for two rows."""
    wide = min(len(true), columns)
    high = -(-wide // 2)
    cells = np.full((high, wide), " ")
    for mark, part in (("\\", np.eye(len(true), dtype=bool)), ("#", true), ("x", misses), ("o", hits)):
        cells[shrink(part, high, wide)] = mark
    yield Text("  o predicted and true, x predicted only, # true")
    for line in cells:
        yield Text("  " + "".join(line).rstrip())
