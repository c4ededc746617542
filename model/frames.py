"""The eight rigid groups of a residue: from atoms, from torsions, and back to atoms (AF2 supplement 1.8.1, 1.8.4, Algorithm 24).

Group order: backbone, pre-omega, phi, psi, chi1..chi4. Positions in ångström.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from . import tables
from .rigid import Rigid


class GroupFrames(NamedTuple):
    """``frames`` and ``alt_frames`` [*, N_res, 8] (the latter with symmetric side chains renamed), ``mask`` [*, N_res, 8]."""

    frames: Rigid
    alt_frames: Rigid
    mask: Float[Tensor, "*batch N_res 8"]


def atom37_to_frames(
    aatype: Int[Tensor, "*batch N_res"], positions: Float[Tensor, "*batch N_res 37 3"], atom_mask: Float[Tensor, "*batch N_res 37"]
) -> GroupFrames:
    """Rigid-group frames of resolved atoms; masked where one of a group's three base atoms is missing."""
    index = tables.GROUP_ATOMS(aatype)
    shape, flat = index.shape, index.flatten(-2)
    base = torch.gather(positions, -2, flat.unsqueeze(-1).expand(*flat.shape, 3)).reshape(*shape, 3)
    negative_x, origin, xy_plane = base.unbind(-2)
    known = torch.gather(atom_mask, -1, flat).reshape(shape).amin(-1)
    raw = Rigid.from_axes(origin - negative_x, xy_plane - origin, origin)
    # The backbone's C lies on its positive x axis (Algorithm 21), unlike the first atom of the other groups.
    turn_y = positions.new_tensor([[-1.0, 1.0, -1.0]] + [[1.0, 1.0, 1.0]] * 7)
    frames = Rigid(raw.rotations * turn_y.unsqueeze(-2), origin)
    flips = tables.GROUP_FLIPS(aatype, positions.dtype)
    turn_x = torch.stack((torch.ones_like(flips), flips, flips), dim=-1)
    alternative = Rigid(frames.rotations * turn_x.unsqueeze(-2), origin)
    return GroupFrames(frames, alternative, known * tables.GROUP_EXISTS(aatype, atom_mask.dtype))


def torsion_angles_to_frames(aatype: Int[Tensor, "*batch N_res"], backbone: Rigid, sin_cos: Float[Tensor, "*batch N_res 7 2"]) -> Rigid:
    """Global frames [*, N_res, 8] of the groups from backbone frames [*, N_res] in ångström and torsions (Algorithm 24, lines 1-10)."""
    default = tables.GROUP_DEFAULT_FRAME(aatype, sin_cos.dtype)
    turned = Rigid(default[..., :3, :3], default[..., :3, 3]).compose(_rotations_about_x(sin_cos))
    groups = [Rigid(turned.rotations[..., i, :, :], turned.translations[..., i, :]) for i in range(8)]
    for chi in (5, 6, 7):  # each chi group hangs on the one before it, the others on the backbone
        groups[chi] = groups[chi - 1].compose(groups[chi])
    local = Rigid(torch.stack([g.rotations for g in groups], dim=-3), torch.stack([g.translations for g in groups], dim=-2))
    return backbone.unsqueeze(-1).compose(local)


def frames_to_atom14(aatype: Int[Tensor, "*batch N_res"], frames: Rigid) -> Float[Tensor, "*batch N_res 14 3"]:
    """Atom positions from the frames of the groups [*, N_res, 8] and literature geometry; 0 for absent atoms (Algorithm 24, line 11)."""
    group = tables.ATOM14_GROUP(aatype)
    rotations = frames.rotations.flatten(-2)
    of_atom = Rigid(
        torch.gather(rotations, -2, group.unsqueeze(-1).expand(*group.shape, 9)).reshape(*group.shape, 3, 3),
        torch.gather(frames.translations, -2, group.unsqueeze(-1).expand(*group.shape, 3)),
    )
    dtype = frames.translations.dtype
    return of_atom.apply(tables.ATOM14_LOCAL_POSITIONS(aatype, dtype)) * tables.ATOM14_EXISTS(aatype, dtype).unsqueeze(-1)


def _rotations_about_x(sin_cos: Float[Tensor, "*batch N_res 7 2"]) -> Rigid:
    """Rotations [*, N_res, 8] about each group's x axis; the backbone's is the identity."""
    sin = F.pad(sin_cos[..., 0], (1, 0))
    cos = F.pad(sin_cos[..., 1], (1, 0), value=1.0)
    one, zero = torch.ones_like(sin), torch.zeros_like(sin)
    rows = ((one, zero, zero), (zero, cos, -sin), (zero, sin, cos))
    rotations = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    return Rigid(rotations, torch.zeros_like(rotations[..., 0]))
