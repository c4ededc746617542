"""Masked MSA loss (AF2 supplement 1.9.9)."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from .masked import cross_entropy, masked_mean
from .precision import full_precision


@full_precision
def masked_msa_loss(
    logits: Float[Tensor, "*batch N_clust N_res classes"],
    true_msa: Int[Tensor, "*batch N_clust N_res"],
    bert_mask: Float[Tensor, "*batch N_clust N_res"],
) -> Float[Tensor, "*batch"]:
    """Cross entropy of the residue type at the places of the MSA that were hidden or corrupted (``bert_mask`` 1)."""
    return masked_mean(cross_entropy(logits, true_msa), bert_mask, (-2, -1), eps=1e-8)
