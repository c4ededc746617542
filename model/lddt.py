"""lDDT over all heavy atoms (Mariani et al. 2013), in memory that grows with the number of atoms and not with its square."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .metrics import LDDT

PAIRS_AT_ONCE = 4_000_000  # atom pairs whose distances are held at a time: 16 MB for each of half a dozen arrays
LIMITS = (0.5, 1.0, 2.0, 4.0)


@torch.no_grad()
def lddt_all_atom(
    atom14: Float[Tensor, "N_res 14 3"],
    true_atom14: Float[Tensor, "N_res 14 3"],
    mask: Float[Tensor, "N_res 14"],
    cutoff: float = 15.0,
) -> LDDT:
    """Share of the true distances below ``cutoff`` ångström between atoms of different residues that are kept within 0.5, 1, 2 and 4 Å.

    ``mask`` 1 where the truth is known; symmetric side chains are to be named as suits the prediction (``losses.renaming``). Positions in
    ångström. A residue without any scored distance scores 1, as in ``lddt_ca``. Stereochemistry is not looked at.
    """
    residue, slot = (mask > 0).nonzero(as_tuple=True)
    points, truth = atom14[residue, slot].float(), true_atom14[residue, slot].float()
    kept, scored = truth.new_zeros(len(residue), dtype=torch.float64), truth.new_zeros(len(residue), dtype=torch.float64)
    for rows in torch.arange(len(residue), device=mask.device).split(max(1, PAIRS_AT_ONCE // max(1, len(residue)))):
        near, change = _compare(points, truth, rows, cutoff)
        near &= residue[rows].unsqueeze(-1) != residue
        scored[rows] = near.sum(-1).double()
        within = torch.stack([((change < limit) & near).sum(-1) for limit in LIMITS])
        kept[rows] = within.double().mean(0)
    of_residue = [kept.new_zeros(len(mask)).index_add(0, residue, counts) for counts in (kept, scored)]
    per_residue = (1e-10 + of_residue[0]) / (1e-10 + of_residue[1])
    return LDDT(per_residue.to(atom14.dtype), ((1e-10 + kept.sum()) / (1e-10 + scored.sum())).to(atom14.dtype))


def _compare(points: Tensor, truth: Tensor, rows: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Of the atoms ``rows`` against all: whether the true distance is below ``cutoff``, and by how much the distance differs."""
    # The matrix-product shortcut of cdist loses thousandths of an ångström to cancellation.
    true, found = (torch.cdist(p[rows], p, compute_mode="donot_use_mm_for_euclid_dist") for p in (truth, points))
    return true < cutoff, (found - true).abs_()
