"""The true contacts of a chain, and how many of the strongest co-evolving pairs are among them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..residues import CA, CB, RESTYPE_INDEX
from ..types import ChainRecord

CONTACT = 8.0  # ångström between Cβ atoms: CASP's definition
SEPARATION = 6  # residues nearer along the chain are close anyway
BURIAL_RADIUS = 10.0  # ångström


class Pair(NamedTuple):
    """Two co-evolving positions, counted from 0, i < j; ``distance`` in ångström, nan where either has no coordinates."""

    i: int
    j: int
    score: float
    distance: float

    @property
    def in_contact(self) -> bool:
        return self.distance < CONTACT


def distance_map(record: ChainRecord) -> np.ndarray:
    """Distances between Cβ atoms (Cα of glycine) in ångström: float32 [N_res, N_res], nan where an atom was not observed."""
    glycine = record.aatype == RESTYPE_INDEX["G"]
    atom = np.where(glycine, CA, CB)
    every = np.arange(len(atom))
    points = record.positions[every, atom].astype(np.float32)
    points[record.mask[every, atom] == 0] = np.nan
    squared = np.zeros((len(points),) * 2, np.float32)
    for axis in points.T:
        squared += np.square(axis[:, None] - axis)
    return np.sqrt(squared)


def burial(distances: np.ndarray) -> np.ndarray:
    """Neighbours within 10 Å of each residue's Cβ: float [N_res], nan without coordinates. Few on the surface, many in the core."""
    near = (distances < BURIAL_RADIUS).sum(1) - 1.0
    return np.where(np.isnan(np.diag(distances)), np.nan, near)


def top_pairs(scores: np.ndarray, distances: np.ndarray, count: int, separation: int = SEPARATION) -> list[Pair]:
    """The ``count`` strongest pairs at least ``separation`` apart, the strongest first; of equal ones the first in the chain."""
    i, j = np.triu_indices(len(scores), separation)
    order = np.argsort(-scores[i, j], kind="stable")[:count]
    return [Pair(int(a), int(b), float(scores[a, b]), float(distances[a, b])) for a, b in zip(i[order], j[order], strict=True)]


def precision(scores: np.ndarray, distances: np.ndarray, count: int, separation: int = SEPARATION) -> float:
    """The share of contacts among the ``count`` strongest pairs of known distance; nan where there is none."""
    i, j = np.triu_indices(len(scores), separation)
    known = ~np.isnan(distances[i, j])
    i, j = i[known], j[known]
    if not len(i):
        return float("nan")
    order = np.argsort(-scores[i, j], kind="stable")[: max(1, count)]
    return float((distances[i[order], j[order]] < CONTACT).mean())


def contact_rate(distances: np.ndarray, separation: int = SEPARATION) -> float:
    """The share of contacts among all pairs of known distance: what guessing reaches; nan where there is none."""
    known = distances[np.triu_indices(len(distances), separation)]
    known = known[~np.isnan(known)]
    return float((known < CONTACT).mean()) if len(known) else float("nan")
