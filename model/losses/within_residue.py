"""Distances inside one residue against what bonds and angles allow (AF2 supplement 1.9.11)."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data_store.residues import ATOM14_NAMES, RESNAMES, table
from ..tables import ResidueTable
from .clashes import ATOM14_RADIUS
from .precision import full_precision


class WithinResidue(NamedTuple):
    """Summed error of each atom in ångström [*, N_res, 14] and the atoms out of bounds [*, N_res, 14]."""

    per_atom: Tensor
    mask: Tensor


def distance_bounds(overlap_tolerance: float = 1.5, tolerance_factor: float = 12.0) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest distance in ångström of each atom pair of each residue type, two arrays [21, 14, 14].

    Bonded atoms and neighbours over one angle: literature length plus or minus ``tolerance_factor`` standard deviations. Others: touching
    spheres less ``overlap_tolerance``, without upper limit. Pairs that do not exist: 0 and 0.
    """
    radius, real = ATOM14_RADIUS, ATOM14_RADIUS > 0
    pair = real[:, :, None] & real[:, None, :] & ~np.eye(14, dtype=bool)
    low = np.where(pair, radius[:, :, None] + radius[:, None, :] - overlap_tolerance, 0.0)
    high = np.where(pair, 1e10, 0.0)
    for index, (name, slots) in enumerate(zip(RESNAMES, ATOM14_NAMES, strict=True)):
        for atom, other, length, spread in table("residue_bonds").get(name, []) + table("residue_virtual_bonds").get(name, []):
            i, j = slots.index(atom), slots.index(other)
            low[index, i, j] = low[index, j, i] = length - tolerance_factor * spread
            high[index, i, j] = high[index, j, i] = length + tolerance_factor * spread
    return low.astype(np.float32), high.astype(np.float32)


@cache
def _bound_tables(overlap_tolerance: float, tolerance_factor: float) -> tuple[ResidueTable, ResidueTable]:
    low, high = distance_bounds(overlap_tolerance, tolerance_factor)
    return ResidueTable(low), ResidueTable(high)


@full_precision
def within_residue(
    atom14: Float[Tensor, "*batch N_res 14 3"],
    atom_exists: Float[Tensor, "*batch N_res 14"],
    aatype: Int[Tensor, "*batch N_res"],
    overlap_tolerance: float = 1.5,
    tolerance_factor: float = 12.0,
    tighten: float = 0.0,
) -> WithinResidue:
    """How far each atom pair of a residue lies outside its bounds; the loss (not the violation) starts ``tighten`` ångström inside them."""
    low, high = (bound(aatype, atom14.dtype) for bound in _bound_tables(overlap_tolerance, tolerance_factor))
    pair_mask = atom_exists.unsqueeze(-1) * atom_exists.unsqueeze(-2) * (1 - torch.eye(14, dtype=atom14.dtype, device=atom14.device))
    distance = (1e-10 + (atom14.unsqueeze(-2) - atom14.unsqueeze(-3)).square().sum(-1)).sqrt()
    error = pair_mask * ((low + tighten - distance).relu() + (distance - high + tighten).relu())
    outside = pair_mask * ((distance < low) | (distance > high))
    return WithinResidue(per_atom=error.sum(-1) + error.sum(-2), mask=outside.amax(-1))
