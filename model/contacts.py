"""Contacts that the distogram predicts: their probabilities, and how many of the surest are true (as CASP scores contacts)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

CONTACT = 8.0  # ångström between Cβ atoms (Cα of glycine)


def contact_probability(
    logits: Float[Tensor, "*batch N_res N_res bins"], first_break: float, last_break: float, below: float = CONTACT
) -> Float[Tensor, "*batch N_res N_res"]:
    """Probability of a distance under ``below`` ångström; the bin that holds ``below`` counts by the part of it that lies under."""
    probabilities = torch.softmax(logits.float(), -1)
    breaks = torch.linspace(first_break, last_break, logits.shape[-1] - 1, dtype=torch.float64, device=logits.device)
    width = breaks[1] - breaks[0]
    # Share of each bin under the limit: the first reaches down to 0, the last has no upper end.
    share = torch.cat(((below >= breaks[:1]).double(), ((below - breaks[:-1]) / width).clamp(0, 1), torch.zeros_like(breaks[:1])))
    return (probabilities * share.to(probabilities.dtype)).sum(-1)


def contact_precision(
    probability: Float[Tensor, "N_res N_res"],
    beta: Float[Tensor, "N_res 3"],
    mask: Float[Tensor, " N_res"],
    residue_index: Int[Tensor, " N_res"],
    separation: int,
) -> float:
    """Share of true contacts among the L/5 most probable pairs of residues at least ``separation`` apart in the sequence.

    L counts the residues whose ``beta`` (ångström) is known (``mask`` 1); only they make pairs. NaN where no such pair is in contact: a
    precision would say nothing of the prediction.
    """
    known = (mask > 0).nonzero().squeeze(-1)
    number = residue_index[known]
    first, second = (number.unsqueeze(0) - number.unsqueeze(1) >= separation).nonzero(as_tuple=True)
    true = (beta[known[first]] - beta[known[second]]).norm(dim=-1) < CONTACT
    if not true.any():
        return float("nan")
    order = probability[known[first], known[second]].argsort(descending=True, stable=True)
    return float(true[order[: max(1, len(known) // 5)]].double().mean())
