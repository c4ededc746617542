"""How close a prediction is to the truth, Cα against Cα with known correspondence. Positions and distances in ångström.

``mask`` [*, N_res] (float 0/1) marks the residues whose truth is known. Nothing to compare gives 0 for scores and distances, except lDDT,
which follows DeepMind's definition exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .superposition import candidate_superpositions, superpose

POLISH_ROUNDS = 20
GDT_CUTOFFS = (0.5, 1.0, 2.0, 4.0, 8.0)  # ångström


class LDDT(NamedTuple):
    """lDDT of each residue [*, N_res] and of the whole chain [*], both 0..1; the chain's is over all its distances at once."""

    per_residue: Tensor
    mean: Tensor


class GDT(NamedTuple):
    """Mean share of residues [*] that some superposition brings within 1, 2, 4 and 8 Å (``ts``), and within 0.5, 1, 2 and 4 Å (``ha``)."""

    ts: Tensor
    ha: Tensor


def lddt_ca(
    ca: Float[Tensor, "*batch N_res 3"],
    true_ca: Float[Tensor, "*batch N_res 3"],
    mask: Float[Tensor, "*batch N_res"],
    cutoff: float = 15.0,
) -> LDDT:
    """Share of the true distances below ``cutoff`` that are kept within 0.5, 1, 2 and 4 Å, averaged (Mariani et al. 2013).

    A residue without any true neighbour scores 1, as in DeepMind's ``lddt``.
    """
    distance, true_distance = _distances(ca), _distances(true_ca)
    others = 1 - torch.eye(ca.shape[-2], dtype=ca.dtype, device=ca.device)
    scored = (true_distance < cutoff) * mask.unsqueeze(-1) * mask.unsqueeze(-2) * others
    change = (distance - true_distance).abs()
    kept = 0.25 * sum((change < limit).to(ca.dtype) for limit in (0.5, 1.0, 2.0, 4.0)) * scored
    per_residue = (1e-10 + kept.sum(-1)) / (1e-10 + scored.sum(-1))
    return LDDT(per_residue, (1e-10 + kept.sum((-2, -1))) / (1e-10 + scored.sum((-2, -1))))


def kabsch_rmsd(
    ca: Float[Tensor, "*batch N_res 3"], true_ca: Float[Tensor, "*batch N_res 3"], mask: Float[Tensor, "*batch N_res"]
) -> Float[Tensor, "*batch"]:
    """Root mean square distance after the best rigid superposition, ångström."""
    points, onto, weights = ca.double(), true_ca.double(), mask.double()
    squared = (superpose(points, onto, weights) - onto).square().sum(-1)
    return ((squared * weights).sum(-1) / weights.sum(-1).clamp(min=1)).sqrt().to(ca.dtype)


def drmsd(
    ca: Float[Tensor, "*batch N_res 3"], true_ca: Float[Tensor, "*batch N_res 3"], mask: Float[Tensor, "*batch N_res"]
) -> Float[Tensor, "*batch"]:
    """Root mean square difference of the distances of all pairs of different residues, ångström; blind to reflection."""
    pairs = mask.unsqueeze(-1) * mask.unsqueeze(-2) * (1 - torch.eye(ca.shape[-2], dtype=mask.dtype, device=mask.device))
    squared = (_distances(ca) - _distances(true_ca)).square()
    return ((squared * pairs).sum((-2, -1)) / pairs.sum((-2, -1)).clamp(min=1)).sqrt()


def tm_score(
    ca: Float[Tensor, "*batch N_res 3"], true_ca: Float[Tensor, "*batch N_res 3"], mask: Float[Tensor, "*batch N_res"]
) -> Float[Tensor, "*batch"]:
    """TM-score (Zhang & Skolnick 2004), 0..1, over the residues with known truth, maximised by search over superpositions."""
    return _per_sample(_tm_score, ca, true_ca, mask)


def gdt(ca: Float[Tensor, "*batch N_res 3"], true_ca: Float[Tensor, "*batch N_res 3"], mask: Float[Tensor, "*batch N_res"]) -> GDT:
    """Both global distance tests, 0..1, from one search over superpositions (Zemla 2003)."""
    shares = _per_sample(_gdt_shares, ca, true_ca, mask, (len(GDT_CUTOFFS),))
    return GDT(shares[..., 1:].mean(-1), shares[..., :-1].mean(-1))


def _distances(points: Tensor) -> Tensor:
    return (1e-10 + (points.unsqueeze(-2) - points.unsqueeze(-3)).square().sum(-1)).sqrt()


def _tm_score(points: Tensor, onto: Tensor) -> Tensor:
    length = points.shape[0]
    d0 = max(1.24 * max(length - 15, 0) ** (1 / 3) - 1.8, 0.5)

    def closeness(moved: Tensor) -> Tensor:
        return 1 / (1 + ((moved - onto).square().sum(-1) / d0**2))

    best = points
    # The search distance of the original program: d0 kept between 4.5 and 8 Å.
    for moved in candidate_superpositions(points, onto, cutoff=min(max(d0, 4.5), 8.0), seeds_per_length=20):
        found = moved[closeness(moved).mean(-1).argmax()]
        best = found if closeness(found).mean() > closeness(best).mean() else best
    for _ in range(POLISH_ROUNDS):
        # Refitting with the squares of the scores as weights never lowers their sum (it bounds each term from below by a parabola).
        best = superpose(best, onto, closeness(best).square())
    return closeness(best).mean()


def _gdt_shares(points: Tensor, onto: Tensor) -> Tensor:
    best = points.new_zeros(len(GDT_CUTOFFS))
    for cutoff in GDT_CUTOFFS:
        for moved in candidate_superpositions(points, onto, cutoff):
            distance = (moved - onto).norm(dim=-1)
            shares = torch.stack([(distance <= limit).double().mean(-1).amax() for limit in GDT_CUTOFFS])
            best = torch.maximum(best, shares)
    return best


def _per_sample(
    score: Callable[[Tensor, Tensor], Tensor], ca: Tensor, true_ca: Tensor, mask: Tensor, shape: tuple[int, ...] = ()
) -> Tensor:
    """Apply ``score``, whose result has ``shape``, to the known residues of each sample of the leading dimensions."""
    n = ca.shape[-2]
    samples = zip(ca.reshape(-1, n, 3).double(), true_ca.reshape(-1, n, 3).double(), mask.reshape(-1, n) > 0, strict=True)
    scores = [score(points[known], onto[known]) if known.any() else points.new_zeros(shape) for points, onto, known in samples]
    return torch.stack(scores).view((*ca.shape[:-2], *shape)).to(ca.dtype)
