"""Logits of a pass -> the numbers people read: pLDDT, expected aligned error, predicted TM-score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ..model.confidence import compute_pae, compute_plddt, compute_ptm
from ..model.config import HeadsConfig


@dataclass(frozen=True)
class Confidence:
    """``plddt`` [N_res] 0..100; ``pae`` [N_res, N_res] ångström and ``ptm`` 0..1, None where the network lacks the head."""

    plddt: np.ndarray
    pae: np.ndarray | None
    pae_max: float
    ptm: float | None


def confidence_of(outputs: Mapping[str, np.ndarray], heads: HeadsConfig) -> Confidence:
    """Read the confidence out of one pass's logits."""
    plddt = compute_plddt(torch.from_numpy(outputs["plddt"])).numpy()
    if "pae" not in outputs:
        return Confidence(plddt, None, 0.0, None)
    logits = torch.from_numpy(outputs["pae"])
    error = compute_pae(logits, heads.pae_max)
    return Confidence(plddt, error.expected.numpy(), float(error.maximum), float(compute_ptm(logits, heads.pae_max)))


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    return torch.softmax(torch.from_numpy(logits), -1).numpy()
