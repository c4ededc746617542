"""Symmetric side chains: which of the two names of their atoms the prediction is nearer to (AF2 supplement, Algorithm 26)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..all_atom import GroundTruth
from ..rigid import Rigid
from ..tables import ATOM14_IS_AMBIGUOUS
from .precision import full_precision

# The atom14 slots that are ambiguous in any residue type: 6..9 of 14, so that a residue's distances are made for these alone.
SLOTS: list[int] = ATOM14_IS_AMBIGUOUS(torch.arange(21)).amax(0).nonzero().flatten().tolist()
ROWS_AT_ONCE = 256  # residues whose distances to all atoms are held at a time: a quarter of a gigabyte for a chain of 1,000


@full_precision
def alternative_is_better(
    atom14: Float[Tensor, "*batch N_res 14 3"],
    true_atom14: Float[Tensor, "*batch N_res 14 3"],
    alt_atom14: Float[Tensor, "*batch N_res 14 3"],
    mask: Float[Tensor, "*batch N_res 14"],
    is_ambiguous: Float[Tensor, "*batch N_res 14"],
) -> Bool[Tensor, "*batch N_res"]:
    """Whether swapped names bring the distances of a residue's ambiguous atoms to all unambiguous atoms nearer to the prediction's."""
    anchors = (mask * (1 - is_ambiguous)).flatten(-2)
    weights = (mask * is_ambiguous)[..., SLOTS]

    def distances(positions: Tensor, rows: slice) -> Tensor:
        offset = positions[..., rows, SLOTS, :].unsqueeze(-2) - positions.flatten(-3, -2)[..., None, None, :, :]
        return (1e-10 + offset.square().sum(-1)).sqrt()

    def deviation(predicted: Tensor, candidate: Tensor, rows: slice) -> Tensor:
        change = (1e-10 + (predicted - distances(candidate, rows)).square()).sqrt()
        return ((change * anchors[..., None, None, :]).sum(-1) * weights[..., rows, :]).sum(-1)

    better = []
    with torch.no_grad():
        for start in range(0, atom14.shape[-3], ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            predicted = distances(atom14, rows)
            better.append(deviation(predicted, alt_atom14, rows) < deviation(predicted, true_atom14, rows))
    return torch.cat(better, -1)


def rename_ground_truth(truth: GroundTruth, atom14: Float[Tensor, "*batch N_res 14 3"]) -> GroundTruth:
    """``truth`` with atoms, masks and rigid groups of symmetric side chains under the names that suit the prediction ``atom14`` best."""
    better = alternative_is_better(atom14, truth.atom14_positions, truth.alt_atom14_positions, truth.atom14_mask, truth.atom14_is_ambiguous)
    per_atom, per_group = better.unsqueeze(-1), better[..., None, None]
    return truth._replace(
        atom14_positions=torch.where(per_group, truth.alt_atom14_positions, truth.atom14_positions),
        atom14_mask=torch.where(per_atom, truth.alt_atom14_mask, truth.atom14_mask),
        frames=Rigid(
            torch.where(per_group.unsqueeze(-1), truth.alt_frames.rotations, truth.frames.rotations),
            torch.where(per_group, truth.alt_frames.translations, truth.frames.translations),
        ),
    )
