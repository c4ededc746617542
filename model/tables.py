"""Residue tables as tensors, looked up by residue type (AF2 supplement 1.8.1, tables 2 and 3).

Types are 0..20; 21 (gap, in templates) reads the row of 20 (unknown), which has no dense atoms and no chi,
but a backbone and a psi group: its N, CA, C and O may be known.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ..data_store import residues

# The three atoms that span each rigid group: one on the negative x axis, the origin, one in the xy plane. Pre-omega and phi have none.
_BACKBONE_GROUP, _PSI_GROUP = ("C", "CA", "N"), ("CA", "C", "O")


class ResidueTable:
    """One array [21, ...] that is indexed by residue type and follows the index's device."""

    def __init__(self, array: np.ndarray) -> None:
        dtype = torch.int64 if np.issubdtype(array.dtype, np.integer) else torch.float32
        with _disable_current_modes():  # a table first asked for while operations are counted on fake tensors must hold numbers later
            self._by_device = {torch.device("cpu"): torch.tensor(array, dtype=dtype)}

    def __call__(self, aatype: Int[Tensor, "*batch N_res"], dtype: torch.dtype | None = None) -> Shaped[Tensor, "*batch N_res ..."]:
        """Rows of ``aatype``, in ``dtype`` where one is given."""
        rows = self._on(aatype.device)[aatype.long().clamp(max=residues.UNKNOWN)]
        return rows if dtype is None else rows.to(dtype)

    def _on(self, device: torch.device) -> Tensor:
        if device in self._by_device:
            return self._by_device[device]
        table = self._by_device[torch.device("cpu")].to(device)
        if not torch.compiler.is_compiling():  # a tensor made while tracing belongs to the trace and must not outlive it
            self._by_device[device] = table
        return table


def _group_atoms() -> np.ndarray:
    """[21, 8, 3] atom37 indices of each rigid group's base atoms; 0 where the group does not exist."""
    atoms = np.zeros((21, 8, 3), np.int64)
    atoms[:, 0] = [residues.ATOM_INDEX[a] for a in _BACKBONE_GROUP]
    atoms[:, 3] = [residues.ATOM_INDEX[a] for a in _PSI_GROUP]
    atoms[:, 4:] = residues.CHI_ATOM_INDICES[:, :, 1:]
    return atoms


def _group_exists() -> np.ndarray:
    """[21, 8] 1 for the rigid groups that a residue type has."""
    exists = np.zeros((21, 8), np.float32)
    exists[:, 0] = 1.0
    exists[:, 3] = 1.0
    exists[:, 4:] = residues.CHI_MASK
    return exists


def _swapped_slots() -> np.ndarray:
    """[21, 14] the atom14 slot each slot takes in the alternative naming (180 degree symmetric side chains); itself elsewhere."""
    slots = np.tile(np.arange(residues.N_ATOM14), (21, 1))
    for name, swaps in residues.RESIDUE_ATOM_SWAPS.items():
        residue = residues.RESTYPE_INDEX[residues.THREE_TO_ONE[name]]
        names = residues.ATOM14_NAMES[residue]
        for a, b in swaps.items():
            slots[residue, names.index(a)], slots[residue, names.index(b)] = names.index(b), names.index(a)
    return slots


def _alternative_flips() -> np.ndarray:
    """[21, 8] -1 for the last chi group of symmetric side chains, whose frame turns by 180 degrees about x when renamed; else 1."""
    flips = np.ones((21, 8), np.float32)
    for name in residues.RESIDUE_ATOM_SWAPS:
        residue = residues.RESTYPE_INDEX[residues.THREE_TO_ONE[name]]
        flips[residue, 3 + int(residues.CHI_MASK[residue].sum())] = -1.0
    return flips


_SLOTS = _swapped_slots()

ATOM14_EXISTS = ResidueTable(residues.ATOM14_MASK)
ATOM37_EXISTS = ResidueTable(residues.ATOM37_MASK)
ATOM14_TO_ATOM37 = ResidueTable(residues.ATOM14_TO_ATOM37)
ATOM37_TO_ATOM14 = ResidueTable(residues.ATOM37_TO_ATOM14)
ATOM14_SWAPPED = ResidueTable(_SLOTS)
ATOM14_IS_AMBIGUOUS = ResidueTable((np.arange(residues.N_ATOM14) != _SLOTS).astype(np.float32))
ATOM14_GROUP = ResidueTable(residues.ATOM14_TO_RIGID_GROUP)
ATOM14_LOCAL_POSITIONS = ResidueTable(residues.ATOM14_RIGID_POSITIONS)
CHI_ATOMS = ResidueTable(residues.CHI_ATOM_INDICES)
CHI_EXISTS = ResidueTable(residues.CHI_MASK)
CHI_PI_PERIODIC = ResidueTable(residues.CHI_PI_PERIODIC)
GROUP_ATOMS = ResidueTable(_group_atoms())
GROUP_EXISTS = ResidueTable(_group_exists())
GROUP_FLIPS = ResidueTable(_alternative_flips())
GROUP_DEFAULT_FRAME = ResidueTable(residues.RIGID_GROUP_DEFAULT_FRAME)
