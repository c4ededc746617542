"""Fold chains with the averaged weights, at inference features and with recycling, and score them; the ranks share the chains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..data_store.featurize import inference_cycles
from ..data_store.residues import CA
from ..data_store.store import Store
from ..data_store.types import FeatureBatch
from ..model.alphafold import AlphaFold, run_cycles
from ..model.confidence import compute_plddt
from ..model.metrics import kabsch_rmsd, lddt_ca
from ..model.weights import load_state
from .config import RunConfig
from .step import to_device

SEED = 0  # features of validation chains are the same in every run


@dataclass(frozen=True)
class ChainScore:
    """One folded chain. ``lddt`` 0..1, ``plddt`` 0..100, ``rmsd`` ångström; Cα ``predicted`` and ``true`` [N_res, 3], ``mask`` [N_res]."""

    chain_id: str
    split: str  # "trained" or "validation"
    lddt: float
    plddt: float
    rmsd: float
    predicted: np.ndarray
    true: np.ndarray
    mask: np.ndarray


class Validator:
    """Holds an evaluation model beside the trained one, so that averaged weights never enter the engine."""

    def __init__(self, config: RunConfig, store: Store, trained: Sequence[str], device: torch.device) -> None:
        self._config = config
        self._store = store
        self._device = device
        self._model = AlphaFold(config.model).to(device).eval()
        self._chains = [(chain, "trained") for chain in trained[: config.validate.trained_chains]]
        self._chains += [(chain, "validation") for chain in config.data.validation]

    def run(self, weights: dict[str, Tensor]) -> list[ChainScore]:
        """Scores of all chains in a fixed order, on every rank. Collective."""
        load_state(weights, self._model, "the averaged weights")
        rank, world = dist.get_rank(), dist.get_world_size()
        mine = [self._fold(chain, split) for chain, split in self._chains[rank::world]]
        everyone: list[list[ChainScore]] = [[] for _ in range(world)]
        dist.all_gather_object(everyone, mine)
        return [everyone[i % world][i // world] for i in range(len(self._chains))]

    @torch.no_grad()
    def _fold(self, chain: str, split: str) -> ChainScore:
        record = self._store.record(chain)
        cycles = inference_cycles(record, self._config.features, SEED, self._config.validate.recycles + 1)
        output = run_cycles(self._model, [to_device(_tensors(cycle), self._device) for cycle in cycles])
        predicted = output.structure.positions[:, CA].float().cpu()
        true, mask = torch.from_numpy(record.positions[:, CA]), torch.from_numpy(record.mask[:, CA].astype(np.float32))
        return ChainScore(
            chain_id=chain,
            split=split,
            lddt=float(lddt_ca(predicted, true, mask).mean),
            plddt=float(compute_plddt(output.plddt).mean()),
            rmsd=float(kabsch_rmsd(predicted, true, mask)),
            predicted=predicted.numpy(),
            true=true.numpy(),
            mask=mask.numpy(),
        )


def summary(scores: Sequence[ChainScore]) -> dict[str, float]:
    """Means by split, named as the journal names them: "validate/trained/lddt_ca" and so on; a split without chains is left out."""
    means: dict[str, float] = {}
    for split in ("trained", "validation"):
        chosen = [score for score in scores if score.split == split]
        if chosen:
            means[f"validate/{split}/lddt_ca"] = fmean(s.lddt for s in chosen)
            means[f"validate/{split}/plddt"] = fmean(s.plddt for s in chosen)
            means[f"validate/{split}/rmsd_ca"] = fmean(s.rmsd for s in chosen)
    return means


def by_chain(scores: Sequence[ChainScore]) -> dict[str, dict[str, float | str | int]]:
    """Chain id -> its scores, the form of ``summary.json``."""
    return {
        s.chain_id: {
            "split": s.split,
            "residues": len(s.mask),
            "lddt_ca": _rounded(s.lddt),
            "plddt": _rounded(s.plddt),
            "rmsd_ca": _rounded(s.rmsd),
        }
        for s in scores
    }


def _rounded(value: float) -> float:
    return round(value, 4) if math.isfinite(value) else value


def _tensors(batch: FeatureBatch) -> FeatureBatch:
    return FeatureBatch(*(torch.from_numpy(np.ascontiguousarray(array)) for array in batch))
