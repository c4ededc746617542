"""Helices and strands from backbone hydrogen bonds, for drawing ribbons (Kabsch and Sander 1983, the two classes that matter here)."""

from __future__ import annotations

import numpy as np

from ..data_store.residues import ATOM_INDEX, CA

N, C, O = (ATOM_INDEX[name] for name in ("N", "C", "O"))
COUPLING = 27.9  # kcal/mol × ångström: 332 × 0.42 × 0.20 electron charges squared
BOND_ENERGY = -0.5  # kcal/mol, below which two peptides are bonded
NH_LENGTH = 1.01  # ångström
PROLINE = 14


def secondary_structure(positions: np.ndarray, mask: np.ndarray, aatype: np.ndarray) -> str:
    """'H' (alpha helix), 'E' (strand) or 'C' per residue of ``positions`` [N_res, 37, 3] ångström, ``mask`` [N_res, 37]."""
    n = len(aatype)
    bonds = _bonds(positions, mask > 0.5, aatype)
    padded = np.zeros((n + 8, n + 8), bool)  # so that every shifted look-up below stays inside
    padded[4 : n + 4, 4 : n + 4] = bonds
    kinds = np.full(n, "C")
    kinds[_in_ladder(padded, n)] = "E"
    turn = np.array([padded[i + 8, i + 4] for i in range(n)], bool)  # NH of i + 4 to CO of i
    for i in range(1, n):
        if turn[i] and turn[i - 1]:
            kinds[i : i + 4] = "H"
    return "".join(kinds)


def _bonds(positions: np.ndarray, mask: np.ndarray, aatype: np.ndarray) -> np.ndarray:
    """[donor, acceptor]: whether the NH of one residue is bonded to the CO of another."""
    n = len(aatype)
    known = np.asarray(mask[:, [N, CA, C, O]].all(-1))
    nitrogen, carbon, oxygen = (positions[:, atom].astype(np.float64) for atom in (N, C, O))
    carbonyl = carbon - oxygen
    direction = carbonyl / np.maximum(np.linalg.norm(carbonyl, axis=-1, keepdims=True), 1e-6)
    hydrogen = nitrogen.copy()
    hydrogen[1:] += NH_LENGTH * direction[:-1]
    donors = known & (aatype != PROLINE)
    donors[:1] = False
    donors[1:] &= known[:-1]

    def inverse(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(1.0 / np.maximum(np.linalg.norm(a[:, None] - b[None], axis=-1), 0.5))

    energy = COUPLING * (inverse(nitrogen, oxygen) + inverse(hydrogen, carbon) - inverse(hydrogen, oxygen) - inverse(nitrogen, carbon))
    apart = np.abs(np.arange(n)[:, None] - np.arange(n)[None]) > 1
    return np.asarray((energy < BOND_ENERGY) & donors[:, None] & known[None] & apart)


def _in_ladder(bonds: np.ndarray, n: int) -> np.ndarray:
    """Residues [N_res] that stand in a bridge whose neighbour stands in one too. ``bonds`` carries four rows and columns of margin."""

    def at(donor: int, acceptor: int) -> np.ndarray:
        """bonds[i + donor, j + acceptor] for all i, j."""
        return bonds[4 + donor : 4 + donor + n, 4 + acceptor : 4 + acceptor + n]

    parallel = at(1, 0) & at(0, -1).T  # NH(i+1)-CO(j) and NH(j)-CO(i-1)
    antiparallel = (at(0, 0) & at(0, 0).T) | (at(1, -1) & at(1, -1).T)
    bridges = parallel | parallel.T | antiparallel
    bridges &= np.abs(np.arange(n)[:, None] - np.arange(n)[None]) > 2
    bridged = bridges.any(-1)
    near = np.zeros(n + 4, bool)
    near[2 : n + 2] = bridged
    before, after = near[1 : n + 1] | near[0:n], near[3 : n + 3] | near[4 : n + 4]
    return np.asarray((bridged & (before | after)) | (near[1 : n + 1] & near[3 : n + 3]))
