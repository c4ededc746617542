"""Confidence loss: the network predicts its own lDDT-Cα (AF2 supplement, Algorithm 29)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ..metrics import lddt_ca
from .masked import cross_entropy, masked_mean
from .precision import full_precision


@full_precision
def plddt_loss(
    logits: Float[Tensor, "*batch N_res bins"],
    ca: Float[Tensor, "*batch N_res 3"],
    true_ca: Float[Tensor, "*batch N_res 3"],
    ca_mask: Float[Tensor, "*batch N_res"],
) -> Float[Tensor, "*batch"]:
    """Cross entropy of the binned lDDT of the predicted Cα positions; no gradient flows into the positions."""
    bins = logits.shape[-1]
    target = (lddt_ca(ca.detach(), true_ca, ca_mask).per_residue * bins).floor().clamp(max=bins - 1)
    return masked_mean(cross_entropy(logits, target), ca_mask, -1, eps=1e-8)
