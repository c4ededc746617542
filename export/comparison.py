"""A prediction beside the experimental structure of the same chain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..data_store.residues import CA
from ..model.metrics import kabsch_rmsd, lddt_ca
from ..model.superposition import superpose

FEWEST_RESIDUES = 3  # below that no superposition is defined


@dataclass(frozen=True)
class Comparison:
    """The experiment laid over the prediction, and how far apart they are over the residues that the experiment resolves.

    ``positions`` [N_res, 37, 3] ångström, superposed by Cα; ``mask`` [N_res, 37]; ``lddt`` (0..1) and ``distance`` (ångström, Cα to Cα)
    [N_res], NaN where unresolved; ``lddt_ca`` 0..1 and ``rmsd`` in ångström over all Cα.
    """

    positions: np.ndarray
    mask: np.ndarray
    lddt: np.ndarray
    distance: np.ndarray
    lddt_ca: float
    rmsd: float


def compare(predicted: np.ndarray, true: np.ndarray, mask: np.ndarray) -> Comparison | None:
    """``predicted`` and ``true`` [N_res, 37, 3], ``mask`` [N_res, 37] of the true atoms; None when fewer than three Cα are known."""
    known = mask[:, CA] > 0.5
    if known.sum() < FEWEST_RESIDUES:
        return None
    ours, theirs = (torch.tensor(np.asarray(p, np.float64)) for p in (predicted, true))
    weight = torch.tensor(known, dtype=torch.float64)
    lddt = lddt_ca(ours[:, CA], theirs[:, CA], weight)
    flat = torch.zeros(mask.shape, dtype=torch.float64)
    flat[:, CA] = weight
    moved = superpose(theirs.reshape(-1, 3), ours.reshape(-1, 3), flat.reshape(-1)).reshape(theirs.shape)
    distance = (moved[:, CA] - ours[:, CA]).norm(dim=-1)
    return Comparison(
        positions=moved.numpy().astype(np.float32),
        mask=np.asarray(mask > 0.5),
        lddt=np.where(known, lddt.per_residue.numpy(), np.nan),
        distance=np.where(known, distance.numpy(), np.nan),
        lddt_ca=float(lddt.mean),
        rmsd=float(kabsch_rmsd(ours[:, CA], theirs[:, CA], weight)),
    )
