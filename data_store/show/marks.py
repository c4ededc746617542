"""Numbers and matrices as characters: block elements and braille, or plain ASCII where the output can show no more."""

from __future__ import annotations

import numpy as np

_BLOCKS = "▁▂▃▄▅▆▇█"
_DIGITS = "0123456789"
_BRAILLE_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # of the 4 x 2 dots of a character


def bars(values: np.ndarray, unicode: bool) -> str:
    """One character for each value of 0..1, '.' for a missing one (nan); in ASCII the first decimal, 9 at most."""
    ramp = _BLOCKS if unicode else _DIGITS
    known = np.nan_to_num(np.clip(values, 0, 1))
    steps = np.minimum((known * len(ramp)).astype(int), len(ramp) - 1)
    return "".join("." if np.isnan(value) else ramp[step] for value, step in zip(values, steps, strict=True))


def shrink(matrix: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """bool [rows, columns]: true where any of the cells that fall together are; a matrix that fits already is copied, not stretched."""
    shrunk = np.zeros((min(rows, matrix.shape[0]), min(columns, matrix.shape[1])), bool)
    i, j = np.nonzero(matrix)
    shrunk[i * shrunk.shape[0] // matrix.shape[0], j * shrunk.shape[1] // matrix.shape[1]] = True
    return shrunk


def braille(dots: np.ndarray) -> list[str]:
    """A bool matrix as lines of braille characters, each 4 rows x 2 columns of it."""
    high, wide = -(-dots.shape[0] // 4), -(-dots.shape[1] // 2)
    padded = np.zeros((high * 4, wide * 2), bool)
    padded[: dots.shape[0], : dots.shape[1]] = dots
    codes = (padded.reshape(high, 4, wide, 2) * _BRAILLE_BITS[:, None, :]).sum((1, 3))
    return ["".join(chr(0x2800 + int(code)) for code in line) for line in codes]
