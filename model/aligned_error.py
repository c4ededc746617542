"""The true aligned error, which the PAE head predicts (AF2 supplement 1.9.7)."""

from __future__ import annotations

import torch
from jaxtyping import Float

from .losses.fape import local_points
from .rigid import Rigid


@torch.no_grad()
def aligned_error(frames: Rigid, true_frames: Rigid) -> Float[torch.Tensor, "*batch N_res N_res"]:
    """Distance in ångström between Cα j and its truth, each seen from backbone frame i, for frames [*batch, N_res]."""
    difference = local_points(frames, frames.translations) - local_points(true_frames, true_frames.translations)
    return difference.square().sum(-1).sqrt()
