"""Folded validation chains to look at: one PDB file each, and one HTML page that turns their Cα traces without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ..data_store.residues import ONE_TO_THREE
from ..whole_file import write_atomic

PDB_MAX_RESIDUES = 9999  # what the four columns of a residue number hold


@dataclass(frozen=True)
class FoldedChain:
    """What is shown of a chain: Cα ``predicted`` and ``true`` [N_res, 3] ångström, ``mask`` [N_res] of the truth, ``scores`` by name."""

    name: str
    split: str
    sequence: str
    predicted: np.ndarray
    true: np.ndarray
    mask: np.ndarray
    scores: Mapping[str, float]


def write_structures(root: Path, step: int, folded: Sequence[FoldedChain]) -> None:
    """Write ``structures.html`` and ``structures/CHAIN.pdb`` in the run directory ``root``; the predictions lie on the experiments."""
    chains = []
    for chain in folded:
        predicted = superposed(chain.predicted, chain.true, chain.mask)
        chains.append(_described(chain, predicted))
        if len(chain.sequence) <= PDB_MAX_RESIDUES:
            write_atomic(root / "structures" / f"{chain.name}.pdb", trace_pdb(chain, predicted, step))
    data = json.dumps({"step": step, "chains": chains}, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    page = resources.files(__package__).joinpath("structures.html").read_text(encoding="utf-8")
    write_atomic(root / "structures.html", page.replace("{{data}}", data))


def superposed(predicted: np.ndarray, true: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``predicted`` [N_res, 3] moved onto ``true`` with the smallest RMSD over the residues of ``mask`` (Kabsch 1976)."""
    here = mask > 0.5
    moving, fixed = predicted.astype(np.float64), true.astype(np.float64)
    if here.sum() < 3 or not np.isfinite(moving).all():
        return moving
    a, b = moving[here].mean(0), fixed[here].mean(0)
    u, _, vt = np.linalg.svd((moving[here] - a).T @ (fixed[here] - b))
    u[:, -1] *= np.sign(np.linalg.det(u @ vt))
    return np.asarray((moving - a) @ (u @ vt) + b)


def trace_pdb(folded: FoldedChain, predicted: np.ndarray, step: int) -> str:
    """Cα atoms in PDB format: chain A predicted, with its distance to the experiment (Å) as B-factor; chain B the experiment."""
    away = np.linalg.norm(predicted - folded.true, axis=-1) * (folded.mask > 0.5)
    lines = [f"REMARK   1 {folded.name}, step {step}: chain A predicted, chain B experimental"]
    for chain, points, rows in (("A", predicted, range(len(folded.sequence))), ("B", folded.true, np.flatnonzero(folded.mask > 0.5))):
        for row in rows:
            name, (x, y, z) = ONE_TO_THREE.get(folded.sequence[row], "UNK"), np.clip(points[row], -999, 9999)
            tail = f"{1.0:6.2f}{min(away[row], 999.0) if chain == 'A' else 0.0:6.2f}"
            lines.append(f"ATOM  {(len(lines)) % 100000:5d}  CA  {name} {chain}{row + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}{tail}           C")
        lines.append("TER")
    return "\n".join([*lines, "END"]) + "\n"


def _described(chain: FoldedChain, predicted: np.ndarray) -> dict[str, Any]:
    here = chain.mask > 0.5
    return {
        "id": chain.name,
        "split": chain.split,
        "sequence": chain.sequence,
        "scores": {name: round(float(value), 4) if np.isfinite(value) else None for name, value in chain.scores.items()},
        "predicted": _points(predicted, np.ones(len(here), bool)),
        "true": _points(chain.true, here),
    }


def _points(points: np.ndarray, here: np.ndarray) -> list[list[float] | None]:
    known = here & np.isfinite(points).all(-1)
    return [[round(float(v), 2) for v in point] if there else None for point, there in zip(points, known, strict=True)]
