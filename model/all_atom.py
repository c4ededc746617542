"""Between the two atom layouts, torsion angles, and what the losses compare with (AF2 supplement 1.8.1, 1.8.5, 1.9).

atom37: one slot for each of 37 atom names. atom14: the atoms that a residue type has, densely. Positions in ångström.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ..data_store.residues import ATOM_INDEX, CA, CB, RESTYPE_INDEX
from ..data_store.types import Targets
from . import tables
from .frames import atom37_to_frames
from .rigid import Rigid, rounded_sqrt

_N, _C, _O = ATOM_INDEX["N"], ATOM_INDEX["C"], ATOM_INDEX["O"]
_GLYCINE = RESTYPE_INDEX["G"]
_NORM_EPSILON = 1e-8


class TorsionAngles(NamedTuple):
    """pre-omega, phi, psi, chi1..chi4 as (sin, cos) [*, N_res, 7, 2].

    ``alt_sin_cos`` has the chis of 180 degree symmetric side chains turned by pi; ``mask`` [*, N_res, 7] is 1 where the four atoms are
    known. Undefined torsions are what DeepMind's arithmetic gives with missing atoms at 0: templates are embedded with them.
    """

    sin_cos: Float[Tensor, "*batch N_res 7 2"]
    alt_sin_cos: Float[Tensor, "*batch N_res 7 2"]
    mask: Float[Tensor, "*batch N_res 7"]


class GroundTruth(NamedTuple):
    """What the structural losses read. Every mask already counts ``seq_mask``; absent atoms have position 0.

    ``positions``, ``atom_mask`` atom37 as resolved; ``atom37_exists``, ``atom14_exists`` by residue type;
    ``atom14_positions``, ``atom14_mask`` as resolved and ``alt_*`` with the symmetric atoms' names swapped;
    ``atom14_is_ambiguous`` 1 for those atoms; ``backbone`` frames from N, CA, C; ``frames`` / ``alt_frames`` the 8 rigid groups
    (backbone, pre-omega, phi, psi, chi1..4; pre-omega and phi always masked) under ``frames_mask``;
    ``chi_sin_cos`` (sin, cos) of chi1..4; ``pseudo_beta`` CB, or CA of glycine.
    """

    positions: Float[Tensor, "*batch N_res 37 3"]
    atom_mask: Float[Tensor, "*batch N_res 37"]
    atom37_exists: Float[Tensor, "*batch N_res 37"]
    atom14_positions: Float[Tensor, "*batch N_res 14 3"]
    atom14_mask: Float[Tensor, "*batch N_res 14"]
    alt_atom14_positions: Float[Tensor, "*batch N_res 14 3"]
    alt_atom14_mask: Float[Tensor, "*batch N_res 14"]
    atom14_exists: Float[Tensor, "*batch N_res 14"]
    atom14_is_ambiguous: Float[Tensor, "*batch N_res 14"]
    backbone: Rigid  # [*, N_res]
    backbone_mask: Float[Tensor, "*batch N_res"]
    frames: Rigid  # [*, N_res, 8]
    alt_frames: Rigid  # [*, N_res, 8]
    frames_mask: Float[Tensor, "*batch N_res 8"]
    chi_sin_cos: Float[Tensor, "*batch N_res 4 2"]
    chi_mask: Float[Tensor, "*batch N_res 4"]
    pseudo_beta: Float[Tensor, "*batch N_res 3"]
    pseudo_beta_mask: Float[Tensor, "*batch N_res"]


def gather_atoms(positions: Float[Tensor, "*batch atoms 3"], index: Int[Tensor, "*batch wanted"]) -> Float[Tensor, "*batch wanted 3"]:
    """The atoms of each residue named by ``index``."""
    return torch.gather(positions, -2, index.unsqueeze(-1).expand(*index.shape, 3))


def atom37_to_atom14(
    aatype: Int[Tensor, "*batch N_res"], positions: Float[Tensor, "*batch N_res 37 3"], mask: Float[Tensor, "*batch N_res 37"]
) -> tuple[Float[Tensor, "*batch N_res 14 3"], Float[Tensor, "*batch N_res 14"]]:
    """Dense positions and mask; absent atoms are 0."""
    index = tables.ATOM14_TO_ATOM37(aatype)
    mask14 = torch.gather(mask, -1, index) * tables.ATOM14_EXISTS(aatype, mask.dtype)
    return gather_atoms(positions, index) * mask14.unsqueeze(-1), mask14


def atom14_to_atom37(
    aatype: Int[Tensor, "*batch N_res"], positions: Float[Tensor, "*batch N_res 14 3"]
) -> tuple[Float[Tensor, "*batch N_res 37 3"], Float[Tensor, "*batch N_res 37"]]:
    """Positions by atom name, 0 where the residue type lacks the atom, and the mask of atoms it has."""
    exists = tables.ATOM37_EXISTS(aatype, positions.dtype)
    return gather_atoms(positions, tables.ATOM37_TO_ATOM14(aatype)) * exists.unsqueeze(-1), exists


def pseudo_beta(
    aatype: Int[Tensor, "*batch N_res"], positions: Float[Tensor, "*batch N_res 37 3"], mask: Float[Tensor, "*batch N_res 37"]
) -> tuple[Float[Tensor, "*batch N_res 3"], Float[Tensor, "*batch N_res"]]:
    """CB position and mask, CA for glycine."""
    glycine = aatype == _GLYCINE
    x = torch.where(glycine.unsqueeze(-1), positions[..., CA, :], positions[..., CB, :])
    return x, torch.where(glycine, mask[..., CA], mask[..., CB])


def torsion_angles(
    aatype: Int[Tensor, "*batch N_res"], positions: Float[Tensor, "*batch N_res 37 3"], atom_mask: Float[Tensor, "*batch N_res 37"]
) -> TorsionAngles:
    """Torsions of atom37 coordinates; ``aatype`` 0..21. Neighbours in the array count as bonded (supplement 1.8.1, table 2)."""
    before = F.pad(positions, (0, 0, 0, 0, 1, 0))[..., :-1, :, :]
    before_mask = F.pad(atom_mask, (0, 0, 1, 0))[..., :-1, :]
    chi_atoms = tables.CHI_ATOMS(aatype).flatten(-2)
    chi_shape = (*aatype.shape, 4, 4)
    quads = torch.cat(
        (
            torch.stack(
                (
                    torch.stack((before[..., CA, :], before[..., _C, :], positions[..., _N, :], positions[..., CA, :]), dim=-2),
                    torch.stack((before[..., _C, :], positions[..., _N, :], positions[..., CA, :], positions[..., _C, :]), dim=-2),
                    torch.stack((positions[..., _N, :], positions[..., CA, :], positions[..., _C, :], positions[..., _O, :]), dim=-2),
                ),
                dim=-3,
            ),
            gather_atoms(positions, chi_atoms).reshape(*chi_shape, 3),
        ),
        dim=-3,
    )
    n_ca_c = atom_mask[..., _N] * atom_mask[..., CA] * atom_mask[..., _C]
    pre_omega_mask = before_mask[..., CA] * before_mask[..., _C] * atom_mask[..., _N] * atom_mask[..., CA]
    backbone_mask = torch.stack((pre_omega_mask, before_mask[..., _C] * n_ca_c, n_ca_c * atom_mask[..., _O]), dim=-1)
    chi_mask = torch.gather(atom_mask, -1, chi_atoms).reshape(chi_shape).prod(-1) * tables.CHI_EXISTS(aatype, atom_mask.dtype)
    # psi is measured with O, which lies opposite the next residue's N
    signs = positions.new_tensor([1.0, 1.0, -1.0, 1.0, 1.0, 1.0, 1.0]).unsqueeze(-1)
    sin_cos = _dihedral(quads) * signs
    turns = F.pad(1.0 - 2.0 * tables.CHI_PI_PERIODIC(aatype, positions.dtype), (3, 0), value=1.0)
    return TorsionAngles(sin_cos, sin_cos * turns.unsqueeze(-1), torch.cat((backbone_mask, chi_mask), dim=-1))


def _dihedral(quads: Float[Tensor, "*batch 4 3"]) -> Float[Tensor, "*batch 2"]:
    """(sin, cos) of the dihedral of four atoms; (0, 0) where they coincide."""
    a, b, c, d = quads.unbind(-2)
    # inverting before applying is DeepMind's order: their rounding decides the value where a, b, c are collinear (atoms missing)
    local = Rigid.from_axes(c - b, a - c, c).invert().apply(d)
    sin_cos = torch.stack((local[..., 2], local[..., 1]), dim=-1)
    return sin_cos / rounded_sqrt(sin_cos.square().sum(-1, keepdim=True) + _NORM_EPSILON)


def make_ground_truth(aatype: Int[Tensor, "*batch N_res"], targets: Targets, seq_mask: Float[Tensor, "*batch N_res"]) -> GroundTruth:
    """Everything that the losses derive from the resolved coordinates.

    Atoms that a residue type lacks count as unresolved: the terminal OXT, and all atoms of unknown residues.
    """
    seq = seq_mask.unsqueeze(-1)
    atom37_exists = tables.ATOM37_EXISTS(aatype, targets.positions.dtype) * seq
    atom_mask = targets.atom_mask * atom37_exists
    positions = targets.positions * atom_mask.unsqueeze(-1)
    atom14, atom14_mask = atom37_to_atom14(aatype, positions, atom_mask)
    swapped = tables.ATOM14_SWAPPED(aatype)
    torsions = torsion_angles(aatype, positions, atom_mask)
    frames = atom37_to_frames(aatype, positions, atom_mask)
    beta, beta_mask = pseudo_beta(aatype, positions, atom_mask)
    return GroundTruth(
        positions=positions,
        atom_mask=atom_mask,
        atom37_exists=atom37_exists,
        atom14_positions=atom14,
        atom14_mask=atom14_mask,
        alt_atom14_positions=gather_atoms(atom14, swapped),
        alt_atom14_mask=torch.gather(atom14_mask, -1, swapped),
        atom14_exists=tables.ATOM14_EXISTS(aatype, positions.dtype) * seq,
        atom14_is_ambiguous=tables.ATOM14_IS_AMBIGUOUS(aatype, positions.dtype),
        backbone=Rigid(frames.frames.rotations[..., 0, :, :], frames.frames.translations[..., 0, :]),
        backbone_mask=frames.mask[..., 0],
        frames=frames.frames,
        alt_frames=frames.alt_frames,
        frames_mask=frames.mask,
        chi_sin_cos=torsions.sin_cos[..., 3:, :],
        chi_mask=torsions.mask[..., 3:],
        pseudo_beta=beta,
        pseudo_beta_mask=beta_mask,
    )
