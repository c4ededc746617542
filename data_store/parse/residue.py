"""One residue of a structure file -> its letter and its atoms in AlphaFold2's atom37 layout.

Selenomethionine is read as methionine; arginine NH1 is the one nearer to CD; D-amino acids and unknown residues are X, of which backbone
and CB are kept; other modified residues count as their parent. Coordinates in ångström.
"""

from __future__ import annotations

import gemmi
import numpy as np

from ..residues import ATOM37_MASK, ATOM_INDEX, N_ATOM37, RESTYPES, UNKNOWN

BACKBONE_CB = tuple(ATOM_INDEX[name] for name in ("N", "CA", "C", "O", "CB"))


def choose_residue(group: list[gemmi.Residue], letter: str) -> gemmi.Residue:
    """One residue where several types share a place: the one that the sequence names, else the highest occupancy (ties: the first)."""
    named = [residue for residue in group if residue_letter(residue.name) == letter] or group
    return max(named, key=lambda residue: max((atom.occ for atom in residue), default=0.0))


def residue_letter(name: str) -> str:
    """Residue name -> one of the twenty letters or X."""
    facts = gemmi.find_tabulated_residue(name)
    if not facts.is_amino_acid() or facts.kind == gemmi.ResidueKind.AAD:
        return "X"
    letter = facts.one_letter_code.upper()
    return letter if letter in RESTYPES else "X"


def residue_atoms(residue: gemmi.Residue, restype: int) -> tuple[np.ndarray, np.ndarray]:
    """([37, 3] ångström, [37] mask) of one residue, holding only the atoms that its type has."""
    positions, mask = np.zeros((N_ATOM37, 3), np.float32), np.zeros(N_ATOM37, np.uint8)
    allowed = np.isin(np.arange(N_ATOM37), BACKBONE_CB) if restype == UNKNOWN else ATOM37_MASK[restype] > 0
    for atom in _one_conformer(residue):
        name = "SD" if residue.name == "MSE" and atom.name == "SE" else atom.name
        place = np.array(atom.pos.tolist(), np.float32)
        index = ATOM_INDEX.get(name, -1)
        # A coordinate field left blank reads as the origin; no deposited atom lies exactly there.
        if index >= 0 and allowed[index] and not mask[index] and np.isfinite(place).all() and place.any():
            positions[index], mask[index] = place, 1
    if restype == RESTYPES.index("R"):
        _order_arginine(positions, mask)
    return positions, mask


def _one_conformer(residue: gemmi.Residue) -> list[gemmi.Atom]:
    """The atoms of the alternative location with the highest mean occupancy (ties: the first label), and those without alternatives.

    An atom that this location lacks is taken from the location where it has its highest occupancy.
    """
    occupancies: dict[str, list[float]] = {}
    for atom in residue:
        occupancies.setdefault(atom.altloc, []).append(atom.occ)
    labels = [label for label in sorted(occupancies) if label != "\0"]
    best = max(labels, key=lambda label: sum(occupancies[label]) / len(occupancies[label]), default="\0")
    return sorted(residue, key=lambda atom: (atom.altloc not in ("\0", best), -atom.occ))


def _order_arginine(positions: np.ndarray, mask: np.ndarray) -> None:
    """Swap NH1 and NH2 in place when NH2 is the one nearer to CD."""
    first, second, anchor = (ATOM_INDEX[name] for name in ("NH1", "NH2", "CD"))
    if mask[[first, second, anchor]].all():
        distances = np.linalg.norm(positions[[first, second]] - positions[anchor], axis=-1)
        if distances[1] < distances[0]:
            positions[[first, second]] = positions[[second, first]]
