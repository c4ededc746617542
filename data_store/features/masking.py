"""BERT masking of the cluster centres (AF2 supplement 1.2.7)."""

from __future__ import annotations

import numpy as np

MASK_TOKEN = 22
_N_AMINO_ACIDS = 20


def mask_msa(
    rows: np.ndarray,
    profile: np.ndarray,
    fraction: float,
    uniform: float,
    from_profile: float,
    same: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Replace ``fraction`` of the cells of uint8 ``rows`` [N_clust, N_res].

    A chosen cell becomes one of the 20 amino acids with probability ``uniform``, a draw from its column of ``profile`` [N_res, 22] with
    ``from_profile``, stays as it is with ``same``, and becomes the mask token otherwise. Returns the new rows and bert_mask, bool, true
    at every chosen cell (also where the residue happened to stay).
    """
    chosen = rng.random(rows.shape, np.float32) < fraction
    where, columns = np.divmod(np.flatnonzero(chosen), rows.shape[1])  # far faster than nonzero
    kind = rng.random(len(where))
    amino_acids = rng.integers(0, _N_AMINO_ACIDS, len(where), dtype=np.uint8)
    cumulative = profile.cumsum(axis=1, dtype=np.float64)
    level = rng.random(len(where)) * cumulative[columns, -1]
    drawn = (cumulative[columns] <= level[:, None]).sum(axis=1).astype(np.uint8)
    limits = np.cumsum([uniform, from_profile, same])
    new = np.select(
        [kind < limits[0], kind < limits[1], kind < limits[2]],
        [amino_acids, drawn, rows[where, columns]],
        np.uint8(MASK_TOKEN),
    )
    masked = rows.copy()
    masked[where, columns] = new
    return masked, chosen
