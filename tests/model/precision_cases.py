"""Real proteins through one network under each precision policy; read by test_precision.py and benchmarks/precision.py."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from foldline.data_store.config import FeatureConfig
from foldline.data_store.featurize import inference_cycles
from foldline.data_store.ingest import ingest
from foldline.data_store.residues import CA
from foldline.data_store.store import Store
from foldline.data_store.types import FeatureBatch
from foldline.model.confidence import compute_plddt
from foldline.model.metrics import lddt_ca
from foldline.model.outputs import ModelOutput

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"


class Errors(NamedTuple):
    """Against float32: means over residues (pLDDT 0..100), over pairs (half the summed change of distogram probabilities), and of Cα."""

    plddt: float
    distogram: float
    rmsd: float  # ångström, frames as they come out: bfloat16 must not move the protein either
    lddt: float  # 1 - lDDT-Cα, 0..1
    worst_plddt: float = math.inf  # of a residue
    worst_probability: float = math.inf  # of a pair and bin


def demo_store(folder: Path) -> Store:
    """The bundled proteins, ingested."""
    ingest(DEMO, folder / "store")
    return Store.open(folder / "store")


def passes(store: Store, chain: str, config: FeatureConfig, n_cycles: int) -> tuple[FeatureBatch, ...]:
    """Inference features of a chain as tensors."""
    cycles = inference_cycles(store.record(chain), config, 0, n_cycles)
    return tuple(FeatureBatch(*(torch.from_numpy(np.ascontiguousarray(array)) for array in cycle)) for cycle in cycles)


def errors(found: ModelOutput, exact: ModelOutput) -> Errors:
    """How far ``found`` is from ``exact``."""
    ours, theirs = (out.structure.positions[:, CA] for out in (found, exact))
    plddt = (compute_plddt(found.plddt) - compute_plddt(exact.plddt)).abs()
    change = found.distogram.float().softmax(-1) - exact.distogram.softmax(-1)
    return Errors(
        plddt=float(plddt.mean()),
        distogram=float(change.abs().sum(-1).mean() / 2),
        rmsd=float((ours - theirs).square().sum(-1).mean().sqrt()),
        lddt=1.0 - float(lddt_ca(ours, theirs, torch.ones(len(ours))).mean),
        worst_plddt=float(plddt.max()),
        worst_probability=float(change.abs().max()),
    )
