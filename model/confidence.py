"""What the confidence heads mean: pLDDT, expected aligned error, predicted TM-score (AF2 supplement 1.9.6, 1.9.7).

Traced by the exporters: no branch depends on a tensor's value, and half-precision logits are widened first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class AlignedError(NamedTuple):
    """``expected`` [*, N_res, N_res] error in ångström of residue j seen from residue i's frame, and the largest value it can take."""

    expected: Tensor
    maximum: Tensor


def compute_plddt(logits: Tensor) -> Tensor:
    """Logits [*, N_res, bins] -> expected lDDT-Cα [*, N_res] in 0..100."""
    probabilities = _probabilities(logits)
    bins = logits.shape[-1]
    centers = (torch.arange(bins, dtype=probabilities.dtype, device=logits.device) + 0.5) / bins
    return 100 * (probabilities * centers).sum(-1)


def compute_pae(logits: Tensor, max_error: float = 31.0) -> AlignedError:
    """Logits [*, N_res, N_res, bins] -> ``AlignedError``; ``max_error`` is the last break in ångström (``HeadsConfig.pae_max``)."""
    probabilities = _probabilities(logits)
    centers = _error_centers(logits.shape[-1], max_error, probabilities)
    return AlignedError((probabilities * centers).sum(-1), centers[-1])


def compute_ptm(logits: Tensor, max_error: float = 31.0, mask: Tensor | None = None, asym_id: Tensor | None = None) -> Tensor:
    """Predicted TM-score [*] in 0..1 from PAE logits [*, N_res, N_res, bins] (supplement 1.9.7).

    ``mask`` [*, N_res] weighs the residues (default all 1). With ``asym_id`` [*, N_res] only pairs of different chains count (ipTM).
    """
    probabilities = _probabilities(logits)
    weights = torch.ones_like(probabilities[..., 0, 0]) if mask is None else mask.to(probabilities.dtype)
    # Below 19 residues the formula for d0 turns meaningless; DeepMind evaluates it at 19 there.
    d0 = 1.24 * (weights.sum(-1).clamp(min=19.0) - 15.0) ** (1.0 / 3.0) - 1.8
    centers = _error_centers(logits.shape[-1], max_error, probabilities)
    tm_of_bin = 1 / (1 + (centers / d0[..., None]).square())
    tm_of_pair = (probabilities * tm_of_bin[..., None, None, :]).sum(-1)
    pair_weights = weights.unsqueeze(-1) * weights.unsqueeze(-2)
    if asym_id is not None:
        pair_weights = pair_weights * (asym_id.unsqueeze(-1) != asym_id.unsqueeze(-2)).to(pair_weights.dtype)
    aligned = (tm_of_pair * pair_weights).sum(-1) / (1e-8 + pair_weights.sum(-1))
    return (aligned * weights).amax(-1)


def _probabilities(logits: Tensor) -> Tensor:
    return torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)


def _error_centers(bins: int, max_error: float, like: Tensor) -> Tensor:
    """Centers in ångström of the error bins; the last, open bin is as wide as the others."""
    step = max_error / (bins - 2)
    return (torch.arange(bins, dtype=like.dtype, device=like.device) + 0.5) * step
