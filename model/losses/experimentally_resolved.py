"""Experimentally resolved loss (AF2 supplement 1.9.10): which atoms does the experiment see."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from .masked import masked_mean
from .precision import full_precision


@full_precision
def experimentally_resolved_loss(
    logits: Float[Tensor, "*batch N_res 37"],
    atom_mask: Float[Tensor, "*batch N_res 37"],
    atom_exists: Float[Tensor, "*batch N_res 37"],
) -> Float[Tensor, "*batch"]:
    """Binary cross entropy of ``atom_mask`` (resolved) over the atoms that the residue type has (``atom_exists``)."""
    error = binary_cross_entropy_with_logits(logits, atom_mask.to(logits.dtype), reduction="none")
    return masked_mean(error, atom_exists, (-2, -1), eps=1e-8)
