"""Hits made from a real chain, and the superposition that says whether coordinates lie where the query's are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from foldline.data_store.templates.hit import TemplateHit, numbered
from foldline.data_store.types import Templates
from foldline.tests.data_store.store_cases import DEMO

UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
CA = 1


def hit(letters: str, name: str = "1ubq_A", *, query: str = "", start: int = 0, sum_probs: float | None = 10.0) -> TemplateHit:
    """A hit without gaps on residues ``start``… of a query that is ``query`` (or the hit itself)."""
    row = query or letters
    return TemplateHit(1, name, len(letters), sum_probs, row, letters, numbered(row, start), numbered(letters, 0))


def folder_of(tmp_path: Path, **files: str) -> Path:
    """A folder in which name (dots written '__', folders '___') links to a demo or absolute file."""
    for name, target in files.items():
        path = tmp_path / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(DEMO / target)
    return tmp_path


def superposed_rmsd(templates: Templates, number: int, positions: np.ndarray, mask: np.ndarray) -> float:
    """Root mean square distance in ångström of the CA atoms that template ``number`` and the query both have, after superposition."""
    both = (templates.mask[number, :, CA] & mask[:, CA]) > 0
    ours, true = (np.asarray(x, np.float64)[both, CA] for x in (templates.positions[number], positions))
    ours, true = ours - ours.mean(0), true - true.mean(0)
    u, s, vt = np.linalg.svd(ours.T @ true)
    s[-1] *= np.sign(np.linalg.det(u @ vt))
    return float(np.sqrt(max(0.0, (ours**2).sum() + (true**2).sum() - 2 * s.sum()) / both.sum()))
