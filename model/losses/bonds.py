"""Peptide bonds between consecutive residues: length and two angles (AF2 supplement 1.9.11, equations 44 and 45)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from ...data_store.residues import C_N_LENGTH, C_N_LENGTH_STDDEV, COS_C_N_CA, COS_CA_C_N, RESTYPE_INDEX
from .masked import masked_mean
from .precision import full_precision

N, CA, C = 0, 1, 2  # atom14 slots of the backbone
EPS = 1e-6


class BondViolations(NamedTuple):
    """Mean loss of each kind [*], per residue the mean of its two bonds' losses [*, N_res], and where a bond is violated [*, N_res]."""

    c_n: Tensor
    ca_c_n: Tensor
    c_n_ca: Tensor
    per_residue: Tensor
    mask: Tensor


@full_precision
def peptide_bonds(
    atom14: Float[Tensor, "*batch N_res 14 3"],
    atom_exists: Float[Tensor, "*batch N_res 14"],
    residue_index: Int[Tensor, "*batch N_res"],
    aatype: Int[Tensor, "*batch N_res"],
    soft_tolerance: float = 12.0,
    hard_tolerance: float = 12.0,
) -> BondViolations:
    """Flat-bottomed errors of the C-N length (ångström) and of the cosines of CA-C-N and C-N-CA.

    The loss starts ``soft_tolerance`` standard deviations from the ideal value, a violation is beyond ``hard_tolerance`` of them.
    Bonds count where residue numbers are consecutive and all their atoms exist.
    """
    here, there = atom14[..., :-1, :, :], atom14[..., 1:, :, :]
    bonded = (residue_index[..., 1:] - residue_index[..., :-1] == 1).to(atom14.dtype)
    bonded = bonded * atom_exists[..., :-1, C] * atom_exists[..., 1:, N]
    to_ca, _ = _unit(here[..., CA, :] - here[..., C, :])
    to_n, length = _unit(there[..., N, :] - here[..., C, :])
    n_to_ca, _ = _unit(there[..., CA, :] - there[..., N, :])
    proline = (aatype[..., 1:] == RESTYPE_INDEX["P"]).to(atom14.dtype)
    with_ca_here, with_ca_there = bonded * atom_exists[..., :-1, CA], bonded * atom_exists[..., 1:, CA]
    parts = (
        (length, _choose(C_N_LENGTH, proline), _choose(C_N_LENGTH_STDDEV, proline), bonded),
        ((to_ca * to_n).sum(-1), COS_CA_C_N[0], COS_CA_C_N[1], with_ca_here),
        ((-to_n * n_to_ca).sum(-1), COS_C_N_CA[0], COS_C_N_CA[1], with_ca_there),
    )
    losses, broken, means = [], [], []
    for value, ideal, spread, mask in parts:
        error = (EPS + (value - ideal).square()).sqrt()
        losses.append((error - soft_tolerance * spread).relu())
        broken.append(mask * (error > hard_tolerance * spread))
        means.append(masked_mean(losses[-1], mask, -1, EPS))
    per_bond, bond_mask = torch.stack(losses).sum(0), torch.stack(broken).amax(0)
    per_residue = 0.5 * (pad(per_bond, (0, 1)) + pad(per_bond, (1, 0)))
    c_n, ca_c_n, c_n_ca = means
    return BondViolations(c_n, ca_c_n, c_n_ca, per_residue, torch.maximum(pad(bond_mask, (0, 1)), pad(bond_mask, (1, 0))))


def _unit(vector: Tensor) -> tuple[Tensor, Tensor]:
    """(unit vectors [*, 3], lengths [*]), finite also for a vector of zero."""
    length = (EPS + vector.square().sum(-1)).sqrt()
    return vector / length.unsqueeze(-1), length


def _choose(general_and_proline: tuple[float, ...], proline: Tensor) -> Tensor:
    general, before_proline = general_and_proline
    return general + (before_proline - general) * proline
