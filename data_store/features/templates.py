"""Which templates a sample sees (AF2 supplement 1.2.3)."""

from __future__ import annotations

import numpy as np

from ..residues import N_ATOM37
from ..types import Templates


def choose_templates(available: int, limit: int, pool: int, rng: np.random.Generator) -> np.ndarray:
    """Template numbers for training: up to ``limit`` drawn at random from the ``pool`` best; how many is random too, 0 included."""
    pool = min(available, pool)
    count = min(int(rng.integers(0, pool + 1)), limit)
    return rng.choice(pool, count, replace=False)


def template_features(templates: Templates | None, chosen: np.ndarray, residues: slice | np.ndarray, length: int) -> dict[str, np.ndarray]:
    """The template fields of ``FeatureBatch`` for the ``chosen`` numbers and the ``length`` residues ``residues``, in the stored types.

    Without any there is one row whose template_mask is 0, because exported graphs need at least one.
    """
    if templates is None or len(chosen) == 0:
        return {
            "template_aatype": np.zeros((1, length), np.int8),
            "template_positions": np.zeros((1, length, N_ATOM37, 3), np.float32),
            "template_atom_mask": np.zeros((1, length, N_ATOM37), np.uint8),
            "template_mask": np.zeros(1, np.float32),
        }
    return {
        "template_aatype": templates.aatype[chosen][:, residues],
        "template_positions": templates.positions[chosen][:, residues],
        "template_atom_mask": templates.mask[chosen][:, residues],
        "template_mask": np.ones(len(chosen), np.float32),
    }
