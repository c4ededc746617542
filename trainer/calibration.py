"""Whether a confidence means what it says: what was predicted against what came true, in sums that chains and ranks can add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Calibration:
    """Sums over pairs (predicted, actual), both from 0 to ``top`` and in its unit.

    ``bins`` [*, bins, 3]: count, sum of predicted, sum of actual, by the predicted value in bins of equal width.
    ``moments`` [*, 6]: count and the sums of p, a, p², a² and pa. Arrays may have leading dimensions, one set of sums for each element.
    """

    top: float
    bins: np.ndarray
    moments: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """Expected calibration error [*]: the bins' distances between mean predicted and mean actual, weighted by their counts."""
        counts = self.bins[..., 0].sum(-1)
        return _ratio(np.abs(self.bins[..., 1] - self.bins[..., 2]).sum(-1), counts)

    @property
    def correlation(self) -> np.ndarray:
        """Pearson's correlation [*]; NaN where one side does not vary."""
        n, p, a, pp, aa, pa = np.moveaxis(self.moments, -1, 0)
        with np.errstate(invalid="ignore"):
            spread = np.sqrt(np.maximum(n * pp - p * p, 0) * np.maximum(n * aa - a * a, 0))
        # Below this share of the products, a difference of two sums is rounding.
        return _ratio(n * pa - p * a, np.where(spread > 1e-9 * np.maximum(n * pp, n * aa), spread, 0.0))

    def table(self) -> list[dict[str, float]]:
        """One row per bin that holds something: its bounds, the count, mean predicted and mean actual value. For sums without
        leading dimensions."""
        edges = np.linspace(0, self.top, self.bins.shape[-2] + 1)
        return [
            {"from": float(low), "to": float(high), "count": int(n), "predicted": float(p / n), "actual": float(a / n)}
            for low, high, (n, p, a) in zip(edges[:-1], edges[1:], self.bins, strict=True)
            if n
        ]


def collect(predicted: np.ndarray, actual: np.ndarray, top: float, bins: int) -> Calibration:
    """The sums over all elements of two arrays of one shape. What lies outside 0..``top`` counts in the outermost bin."""
    p, a = predicted.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    place = np.clip((p / top * bins).astype(np.int64), 0, bins - 1)
    columns = [np.bincount(place, weights, bins) for weights in (None, p, a)]
    return Calibration(top, np.stack(columns, -1).astype(np.float64), np.array([len(p), p.sum(), a.sum(), p @ p, a @ a, p @ a]))


def add(parts: Sequence[Calibration], counts: np.ndarray | None = None) -> Calibration:
    """The sums of all ``parts`` together; with ``counts`` [*, parts] how often each counts, for each element of the leading dimensions."""
    weights = np.ones(len(parts)) if counts is None else counts
    bins, moments = np.stack([part.bins for part in parts]), np.stack([part.moments for part in parts])
    return Calibration(parts[0].top, np.tensordot(weights, bins, 1), np.tensordot(weights, moments, 1))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where below is 0."""
    return np.asarray(np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan))
