"""Predicted aligned error loss (AF2 supplement 1.9.7)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..rigid import Rigid
from .fape import local_points
from .masked import count_above, cross_entropy, masked_mean
from .precision import full_precision


@full_precision
def pae_loss(
    logits: Float[Tensor, "*batch N_res N_res bins"],
    frames: Rigid,
    true_frames: Rigid,
    mask: Float[Tensor, "*batch N_res"],
    max_error: float = 31.0,
) -> Float[Tensor, "*batch"]:
    """Cross entropy of the binned error of Cα j seen from backbone frame i ([*batch, N_res]); no gradient flows into the frames.

    The lowest break is 0 and a residue seen from its own frame has error exactly 0, so the diagonal falls into the first bin.
    """
    with torch.no_grad():
        breaks = torch.linspace(0.0, max_error, logits.shape[-1] - 1, dtype=logits.dtype, device=logits.device)
        difference = local_points(frames, frames.translations) - local_points(true_frames, true_frames.translations)
        target = count_above(difference.square().sum(-1), breaks.square())
    error = cross_entropy(logits, target)
    return masked_mean(error, mask.unsqueeze(-1) * mask.unsqueeze(-2), (-2, -1), eps=1e-8)
