"""Torsion angle losses (AF2 supplement, Algorithm 27): chi angles as points on the unit circle, and the circle itself."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import tables
from .masked import masked_mean
from .precision import full_precision

EPS = 1e-6  # inside the root of the angle norm


@full_precision
def chi_loss(
    angles: Float[Tensor, "L *batch N_res 7 2"],
    true_chi: Float[Tensor, "*batch N_res 4 2"],
    chi_mask: Float[Tensor, "*batch N_res 4"],
    aatype: Int[Tensor, "*batch N_res"],
) -> Float[Tensor, "*batch"]:
    """Squared distance of the predicted (sin, cos) of chi1..chi4 to the true one, mean over iterations and known angles.

    Where a chi angle is the same after half a turn (Asp, Glu, Phe, Tyr) the nearer of the two truths counts.
    """
    chi = angles[..., 3:, :]
    periodic = tables.CHI_PI_PERIODIC(aatype, true_chi.dtype)
    half_turned = true_chi * (1 - 2 * periodic).unsqueeze(-1)
    error = torch.minimum((chi - true_chi).square().sum(-1), (chi - half_turned).square().sum(-1))
    return masked_mean(error, chi_mask, (0, -2, -1))


@full_precision
def angle_norm_loss(
    unnormalized_angles: Float[Tensor, "L *batch N_res 7 2"], seq_mask: Float[Tensor, "*batch N_res"]
) -> Float[Tensor, "*batch"]:
    """Mean distance of the raw network angles from the unit circle, over iterations, residues and all seven torsions."""
    norm = (unnormalized_angles.square().sum(-1) + EPS).sqrt()
    return masked_mean((norm - 1).abs(), seq_mask.unsqueeze(-1), (0, -2, -1))
