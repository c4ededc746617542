"""Distogram loss (AF2 supplement 1.9.8)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .masked import count_above, cross_entropy, masked_mean
from .precision import full_precision


@full_precision
def distogram_loss(
    logits: Float[Tensor, "*batch N_res N_res bins"],
    pseudo_beta: Float[Tensor, "*batch N_res 3"],
    pseudo_beta_mask: Float[Tensor, "*batch N_res"],
    first_break: float = 2.3125,
    last_break: float = 21.6875,
) -> Float[Tensor, "*batch"]:
    """Cross entropy of the binned Cβ distance (Cα for glycine) of each pair; ``breaks`` in ångström bound the inner bins."""
    breaks = torch.linspace(first_break, last_break, logits.shape[-1] - 1, dtype=pseudo_beta.dtype, device=pseudo_beta.device)
    squared = (pseudo_beta.unsqueeze(-2) - pseudo_beta.unsqueeze(-3)).square().sum(-1)
    error = cross_entropy(logits, count_above(squared, breaks.square()))
    pair_mask = pseudo_beta_mask.unsqueeze(-1) * pseudo_beta_mask.unsqueeze(-2)
    return masked_mean(error, pair_mask, (-2, -1), eps=1e-6)
