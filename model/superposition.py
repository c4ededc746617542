"""Rigid superposition of two sets of points with known correspondence: Kabsch's best fit, and the search behind TM-score and GDT.

Everything in ångström and float64: superposition is cheap, and its errors are not worth having.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def superpose(
    points: Float[Tensor, "*batch N 3"], onto: Float[Tensor, "*#batch N 3"], weights: Float[Tensor, "*#batch N"]
) -> Float[Tensor, "*batch N 3"]:
    """``points`` moved as a rigid body (no reflection) so that the weighted squared distance to ``onto`` is least (Kabsch 1976)."""
    share = (weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)).unsqueeze(-1)
    center, target = (share * points).sum(-2, keepdim=True), (share * onto).sum(-2, keepdim=True)
    covariance = (points - center).transpose(-1, -2) @ (share * (onto - target))
    u, _, vt = torch.linalg.svd(covariance)
    flip = torch.ones_like(covariance[..., 0])
    flip[..., 2] = torch.linalg.det(u @ vt).sign()
    return (points - center) @ (u * flip.unsqueeze(-2)) @ vt + target


def candidate_superpositions(
    points: Float[Tensor, "N 3"], onto: Float[Tensor, "N 3"], cutoff: float, seeds_per_length: int = 40, rounds: int = 10
) -> Iterator[Float[Tensor, "S N 3"]]:
    """Superpositions worth scoring, after Zhang & Skolnick (2004): start on fragments, then fit what came within ``cutoff`` ångström.

    Fragments have lengths N, N/2, N/4, ... 4, evenly spread over the chain. Every round yields [seeds, N, 3]; seeds that select the pairs
    they were fitted on, or the same pairs as another seed, are not followed further.
    """
    fitted = fragments(points.shape[0], seeds_per_length).to(points.device)
    for _ in range(rounds):
        moved = superpose(points.expand(len(fitted), -1, -1), onto, fitted.to(points.dtype))
        yield moved
        nearby = within((moved - onto).norm(dim=-1), cutoff)
        fitted = nearby[(nearby != fitted).any(-1)].unique(dim=0)
        if not len(fitted):
            return


def fragments(length: int, seeds_per_length: int) -> Bool[Tensor, "S N"]:
    """One row for each starting fragment, True inside it."""
    rows, size, place = [], length, torch.arange(length)
    while True:
        count = min(length - size + 1, seeds_per_length)
        starts = torch.linspace(0, length - size, count).round().unsqueeze(-1)
        rows.append((place >= starts) & (place < starts + size))
        if size <= 4:
            return torch.cat(rows)
        size = max(size // 2, 4)


def within(distance: Float[Tensor, "S N"], cutoff: float) -> Bool[Tensor, "S N"]:
    """Pairs closer than ``cutoff``; where that leaves fewer than three, the three closest, so that a fit stays defined."""
    third = distance.kthvalue(min(3, distance.shape[-1]), dim=-1, keepdim=True).values
    return distance <= third.clamp(min=cutoff)
