"""Helices and strands from backbone hydrogen bonds, as far as a picture needs them."""

from __future__ import annotations

import numpy as np

from ..residues import ATOM_INDEX, RESTYPE_INDEX
from ..types import ChainRecord

_BOND_ENERGY = -0.5  # kcal/mol (Kabsch & Sander 1983): below it there is a hydrogen bond
_SHORTEST = {"H": 4, "E": 2}  # runs that are drawn


def secondary_structure(record: ChainRecord) -> str:
    """'H' for α-helix, 'E' for strand, '-' for the rest or where the backbone is not known: one letter per residue.

    The patterns of DSSP (Kabsch & Sander 1983, Biopolymers 22, 2577): two turns i -> i+4 in a row make a helix, parallel and
    antiparallel bridges strands.
    """
    bonds = _hydrogen_bonds(record)
    length = len(bonds)
    helix, strand = np.zeros(length, bool), np.zeros(length, bool)
    turns = np.flatnonzero(np.diagonal(bonds, -4))  # NH of i+4 to the CO of i
    for i in turns[:-1][np.diff(turns) == 1] if len(turns) > 1 else ():
        helix[i + 1 : i + 5] = True
    for i, j in np.argwhere(_bridges(bonds)):
        strand[[i, j]] = True
    letters = np.where(helix, "H", np.where(strand, "E", "-"))
    return _without_short_runs("".join(letters.tolist()))


def _hydrogen_bonds(record: ChainRecord) -> np.ndarray:
    """bool [N_res, N_res]: the NH of residue i is bonded to the CO of residue j. The hydrogen lies opposite the previous C=O."""
    atoms = {name: record.positions[:, ATOM_INDEX[name]].astype(np.float32) for name in ("N", "CA", "C", "O")}
    known: np.ndarray = np.all(record.mask[:, [ATOM_INDEX[name] for name in atoms]] > 0, axis=1)
    length = len(known)
    carbonyl = atoms["C"] - atoms["O"]
    carbonyl /= np.maximum(np.linalg.norm(carbonyl, axis=-1, keepdims=True), 1e-6)
    hydrogen = atoms["N"].copy()
    hydrogen[1:] += carbonyl[:-1]
    energy = np.zeros((length, length), np.float32)
    for sign, a, b in ((1, "N", "O"), (1, "H", "C"), (-1, "H", "O"), (-1, "N", "C")):
        donor = hydrogen if a == "H" else atoms[a]
        energy += sign / np.maximum(_distances(donor, atoms[b]), 0.5)
    energy *= 27.9
    donors = known.copy()
    donors[0] = False
    donors[1:] &= known[:-1] & (np.diff(record.residue_index) == 1)
    donors &= record.aatype != RESTYPE_INDEX["P"]  # no hydrogen on its nitrogen
    bonds = (energy < _BOND_ENERGY) & donors[:, None] & known
    near = np.abs(np.subtract.outer(np.arange(length), np.arange(length))) < 2
    return bonds & ~near


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared = np.zeros((len(a), len(b)), np.float32)
    for x, y in zip(a.T, b.T, strict=True):
        squared += np.square(x[:, None] - y)
    return np.sqrt(squared)


def _bridges(bonds: np.ndarray) -> np.ndarray:
    """bool [N_res, N_res], symmetric: residues i and j, at least three apart, form a bridge."""
    padded = np.pad(bonds, 1)
    length = len(bonds)

    def at(di: int, dj: int) -> np.ndarray:
        """bonds[i + di, j + dj]."""
        return padded[1 + di : 1 + di + length, 1 + dj : 1 + dj + length]

    transposed = np.pad(bonds.T, 1)

    def back(di: int, dj: int) -> np.ndarray:
        """bonds[j + dj, i + di]."""
        return transposed[1 + di : 1 + di + length, 1 + dj : 1 + dj + length]

    parallel = (back(-1, 0) & at(1, 0)) | (at(0, -1) & back(0, 1))
    antiparallel = (at(0, 0) & back(0, 0)) | (back(-1, 1) & at(1, -1))
    bridges = parallel | antiparallel
    bridges[np.abs(np.subtract.outer(np.arange(length), np.arange(length))) < 3] = False
    return bridges | bridges.T


def _without_short_runs(letters: str) -> str:
    kept = []
    start = 0
    for end in range(1, len(letters) + 1):
        if end == len(letters) or letters[end] != letters[start]:
            run = letters[start:end]
            kept.append(run if len(run) >= _SHORTEST.get(run[0], 0) else "-" * len(run))
            start = end
    return "".join(kept)
