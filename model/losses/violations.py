"""Structural violations of a prediction: peptide bonds, clashes, geometry inside residues (AF2 supplement 1.9.11)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data_store.residues import CA_CA_DISTANCE
from .bonds import CA, EPS, BondViolations, peptide_bonds
from .clashes import Clashes, between_residue_clashes
from .masked import masked_mean
from .within_residue import WithinResidue, within_residue


class Violations(NamedTuple):
    """The three kinds and the residues [*, N_res] that take part in any."""

    bonds: BondViolations
    clashes: Clashes
    within: WithinResidue
    per_residue: Tensor


class ViolationMetrics(NamedTuple):
    """Shares (0..1, [*]): of stretched Cα-Cα steps, then of residues with a broken bond, a clash, an inner error, any of the three."""

    extreme_ca_ca: Tensor
    between_residue_bond: Tensor
    between_residue_clash: Tensor
    within_residue: Tensor
    per_residue: Tensor


def find_violations(
    atom14: Float[Tensor, "*batch N_res 14 3"],
    atom_exists: Float[Tensor, "*batch N_res 14"],
    residue_index: Int[Tensor, "*batch N_res"],
    aatype: Int[Tensor, "*batch N_res"],
    tolerance_factor: float = 12.0,
    overlap_tolerance: float = 1.5,
) -> Violations:
    """All violations of ``atom14`` (ångström); ``atom_exists`` are the atoms that the residue types have, resolved or not."""
    bonds = peptide_bonds(atom14, atom_exists, residue_index, aatype, tolerance_factor, tolerance_factor)
    clashes = between_residue_clashes(atom14, atom_exists, residue_index, aatype, overlap_tolerance, overlap_tolerance)
    within = within_residue(atom14, atom_exists, aatype, overlap_tolerance, tolerance_factor)
    per_residue = torch.stack([bonds.mask, clashes.mask.amax(-1), within.mask.amax(-1)]).amax(0)
    return Violations(bonds, clashes, within, per_residue)


def violation_loss(violations: Violations, atom_exists: Float[Tensor, "*batch N_res 14"]) -> Float[Tensor, "*batch"]:
    """Equation 47: bond and angle errors plus the mean error of an atom from clashes and inner geometry."""
    atoms = atom_exists.sum((-2, -1)) + 1e-6
    per_atom = violations.clashes.per_atom + violations.within.per_atom
    return violations.bonds.c_n + violations.bonds.ca_c_n + violations.bonds.c_n_ca + per_atom.sum((-2, -1)) / atoms


def violation_metrics(
    violations: Violations,
    atom14: Float[Tensor, "*batch N_res 14 3"],
    atom_exists: Float[Tensor, "*batch N_res 14"],
    residue_index: Int[Tensor, "*batch N_res"],
    seq_mask: Float[Tensor, "*batch N_res"],
) -> ViolationMetrics:
    """Violated shares; a Cα-Cα step is extreme more than 1.5 Å beyond 3.80 Å."""
    step = (EPS + (atom14[..., 1:, CA, :] - atom14[..., :-1, CA, :]).square().sum(-1)).sqrt()
    consecutive = (residue_index[..., 1:] - residue_index[..., :-1] == 1) * atom_exists[..., 1:, CA] * atom_exists[..., :-1, CA]
    extreme = masked_mean((step - CA_CA_DISTANCE > 1.5).to(step.dtype), consecutive, -1)
    masks = (violations.bonds.mask, violations.clashes.mask.amax(-1), violations.within.mask.amax(-1), violations.per_residue)
    return ViolationMetrics(extreme, *(masked_mean(mask, seq_mask, -1) for mask in masks))
