"""Frame aligned point error (AF2 supplement, Algorithm 28) of the backbone and of all atoms.

Distances in ångström; the losses are divided by ``unit``. All masks are float 0/1. No matrix product touches coordinates:
TensorFloat-32 would keep 10 bits of them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..all_atom import GroundTruth
from ..rigid import Rigid
from .precision import full_precision

GROUPS = [0, 3, 4, 5, 6, 7]  # pre-omega and phi hold no atoms of their own: their frames are masked everywhere
EPS = 1e-4  # inside the root and in the denominator, as in the supplement


def local_points(frames: Rigid, points: Float[Tensor, "*batch A 3"]) -> Float[Tensor, "*batch F A 3"]:
    """Every point seen from every frame [*batch, F]. A point at a frame's origin comes out as exactly zero."""
    return frames.unsqueeze(-1).invert_apply(points.unsqueeze(-3))


@full_precision
def frame_aligned_point_error(
    frames: Rigid,
    points: Float[Tensor, "*batch A 3"],
    true_frames: Rigid,
    true_points: Float[Tensor, "*batch A 3"],
    frame_mask: Float[Tensor, "*batch F"],
    point_mask: Float[Tensor, "*batch A"],
    clamp: float = 10.0,
    unit: float = 10.0,
    clamped: Tensor | float = 1.0,
) -> Float[Tensor, "*batch"]:
    """Mean over frames [*batch, F] and points of the distance between a point and its truth, each seen from its frame, over ``unit``.

    ``clamped`` (number or [*batch]) is the share of the loss in which distances are cut at ``clamp`` ångström; 0 leaves them long.
    """
    difference = local_points(frames, points) - local_points(true_frames, true_points)
    distance = (difference.square().sum(-1) + EPS).sqrt()
    share = torch.as_tensor(clamped, dtype=distance.dtype, device=distance.device)[..., None, None]
    distance = share * distance.clamp(max=clamp) + (1 - share) * distance
    # Points first, then frames: the [F, A] product of masks is never made.
    summed = ((distance * point_mask.unsqueeze(-2)).sum(-1) * frame_mask).sum(-1) / unit
    return summed / (EPS + frame_mask.sum(-1) * point_mask.sum(-1))


def backbone_fape(
    frames: Rigid,
    true_frames: Rigid,
    mask: Float[Tensor, "*batch N_res"],
    clamp: float = 10.0,
    unit: float = 10.0,
    clamped: Tensor | float = 1.0,
) -> Float[Tensor, "*batch"]:
    """FAPE of backbone frames against their own origins, the Cα atoms (Algorithm 20, line 17)."""
    return frame_aligned_point_error(frames, frames.translations, true_frames, true_frames.translations, mask, mask, clamp, unit, clamped)


def sidechain_fape(
    frames: Rigid, atom14: Float[Tensor, "*batch N_res 14 3"], truth: GroundTruth, clamp: float = 10.0, unit: float = 10.0
) -> Float[Tensor, "*batch"]:
    """FAPE of all rigid groups [*batch, N_res, 8] against all atoms (Algorithm 20, line 28); ``truth`` is the renamed one."""
    return frame_aligned_point_error(
        _flat(frames),
        atom14.flatten(-3, -2),
        _flat(truth.frames),
        truth.atom14_positions.flatten(-3, -2),
        truth.frames_mask[..., GROUPS].flatten(-2),
        truth.atom14_mask.flatten(-2),
        clamp,
        unit,
    )


def _flat(groups: Rigid) -> Rigid:
    return Rigid(groups.rotations[..., GROUPS, :, :].flatten(-4, -3), groups.translations[..., GROUPS, :].flatten(-3, -2))
