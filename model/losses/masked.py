"""Masked mean and cross entropy, the two reductions that every loss ends with."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(value: Tensor, mask: Tensor, dims: int | tuple[int, ...], eps: float = 1e-10) -> Tensor:
    """Mean of ``value`` over ``dims`` where ``mask`` (broadcast to ``value``) is 1; 0, not NaN, where nothing is left."""
    mask = mask.expand_as(value)
    return (value * mask).sum(dims) / (mask.sum(dims) + eps)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log softmax(``logits`` [*, bins]) at the class ``target`` [*] -> [*], in nats."""
    return -torch.log_softmax(logits, -1).gather(-1, target.long().unsqueeze(-1)).squeeze(-1)


def count_above(value: Tensor, breaks: Tensor) -> Tensor:
    """Index of the bin of ``value`` [*]: how many of the ascending ``breaks`` [bins - 1] lie strictly below it."""
    return (value.unsqueeze(-1) > breaks).sum(-1)
