"""Atoms of different residues that overlap (AF2 supplement 1.9.11, equation 46)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...data_store.residues import ATOM14_NAMES, RESNAMES, VDW_RADIUS
from ..tables import ResidueTable
from .bonds import C, N
from .masked import masked_mean
from .precision import full_precision

SG = ATOM14_NAMES[RESNAMES.index("CYS")].index("SG")
# [21, 14] van der Waals radius in ångström of each atom14 slot, 0 where the residue type has no such atom.
ATOM14_RADIUS = np.array([[VDW_RADIUS[name[0]] if name else 0.0 for name in names] for names in ATOM14_NAMES], np.float32)
_RADIUS = ResidueTable(ATOM14_RADIUS)
ROWS_AT_ONCE = 512  # atoms whose distances to all others are held at a time when clashes are counted


class Clashes(NamedTuple):
    """Mean overlap over the atom pairs [*], summed overlap of each atom [*, N_res, 14], clashing atoms [*, N_res, 14]; ångström."""

    mean: Tensor
    per_atom: Tensor
    mask: Tensor


@full_precision
def between_residue_clashes(
    atom14: Float[Tensor, "*batch N_res 14 3"],
    atom_exists: Float[Tensor, "*batch N_res 14"],
    residue_index: Int[Tensor, "*batch N_res"],
    aatype: Int[Tensor, "*batch N_res"],
    soft_tolerance: float = 1.5,
    hard_tolerance: float = 1.5,
) -> Clashes:
    """Overlap of van der Waals spheres beyond ``soft_tolerance`` ångström; a clash is one beyond ``hard_tolerance``.

    Peptide bonds and every pair of slots where cysteine has SG (disulphide bridges) are left out, as in DeepMind's code.
    """
    radius = (_RADIUS(aatype, atom14.dtype) * atom_exists).flatten(-2)
    counted = _counted_pairs(atom_exists, residue_index)
    pair_mask = counted.to(atom14.dtype)
    overlap = _overlap(atom14.flatten(-3, -2), radius, slice(None))
    excess = (overlap - soft_tolerance).relu() * pair_mask
    clash = (overlap > hard_tolerance) & counted
    shape = atom_exists.shape
    return Clashes(
        mean=masked_mean(excess, pair_mask, (-2, -1), eps=1e-6),
        per_atom=(excess.sum(-1) + excess.sum(-2)).view(shape),
        mask=(clash.any(-1) | clash.any(-2)).to(atom14.dtype).view(shape),
    )


class ClashCount(NamedTuple):
    """Pairs of clashing atoms (an int) and the residues [N_res] that have one, 0/1."""

    pairs: int
    residues: Tensor


@torch.no_grad()
def count_clashes(
    atom14: Float[Tensor, "N_res 14 3"],
    atom_exists: Float[Tensor, "N_res 14"],
    residue_index: Int[Tensor, " N_res"],
    aatype: Int[Tensor, " N_res"],
    tolerance: float = 1.5,
) -> ClashCount:
    """The clashes of ``between_residue_clashes`` counted for one chain, some rows at a time: a long chain needs no square of its atoms."""
    radius = (_RADIUS(aatype, atom14.dtype) * atom_exists).flatten(-2)
    points = atom14.flatten(-3, -2)
    pairs, atoms = 0, torch.zeros_like(radius, dtype=torch.bool)
    for start in range(0, len(points), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        clash = (_overlap(points, radius, rows) > tolerance) & _counted_pairs(atom_exists, residue_index, rows)
        pairs += int(clash.sum())
        atoms |= clash.any(-2)
        atoms[rows] |= clash.any(-1)
    return ClashCount(pairs, atoms.view(atom_exists.shape).any(-1).to(atom14.dtype))


def _overlap(points: Tensor, radius: Tensor, rows: slice) -> Tensor:
    """How far the van der Waals spheres of the atoms ``rows`` and of all atoms overlap, ångström; negative where they do not touch."""
    # The matrix-product shortcut loses millimetres of ångström to cancellation, and gradients of coinciding atoms.
    distance = torch.cdist(points[..., rows, :], points, compute_mode="donot_use_mm_for_euclid_dist")
    return (radius[..., rows].unsqueeze(-1) + radius.unsqueeze(-2)) - distance


def _counted_pairs(
    atom_exists: Float[Tensor, "*batch N_res 14"], residue_index: Int[Tensor, "*batch N_res"], rows: slice = slice(None)
) -> Bool[Tensor, "*batch R A"]:
    """Each pair of existing atoms of different residues once (the lower residue number first), without pairs that may be bonded.

    The first of a pair is among the atoms ``rows``.
    """
    slot = torch.arange(14, device=atom_exists.device).repeat(residue_index.shape[-1])
    number = residue_index.repeat_interleave(14, -1)
    exists = atom_exists.flatten(-2) > 0
    first, second = number[..., rows].unsqueeze(-1), number.unsqueeze(-2)
    peptide = ((slot[rows] == C).unsqueeze(-1) & (slot == N)) & (first + 1 == second)
    disulphide = (slot[rows] == SG).unsqueeze(-1) & (slot == SG)
    return exists[..., rows].unsqueeze(-1) & exists.unsqueeze(-2) & (first < second) & ~peptide & ~disulphide
