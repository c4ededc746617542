"""Fold chains with the averaged weights, at inference features and with recycling, and score them; the ranks share the chains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..data_store.featurize import inference_cycles
from ..data_store.store import Store
from ..data_store.types import FeatureBatch
from ..model.alphafold import AlphaFold, run_cycles
from ..model.outputs import ModelOutput
from ..model.weights import load_state
from .config import RunConfig
from .score import ChainScore, score_chain
from .step import to_device
from .validation_report import journal_means, make_report
from .validation_set import SEED, ValidationChain, shared_out, validation_set

__all__ = ["ChainScore", "Validator", "by_chain", "summary"]


class Validator:
    """Holds an evaluation model beside the trained one, so that averaged weights never enter the engine."""

    def __init__(self, config: RunConfig, store: Store, trained: Sequence[str], device: torch.device) -> None:
        self.chains = validation_set(config, store, trained)
        self._config = config
        self._store = store
        self._device = device
        self._model = AlphaFold(config.model).to(device).eval()

    def run(self, weights: dict[str, Tensor]) -> list[ChainScore]:
        """Scores of all chains in the set's order, on every rank. Collective where the process is one of a group."""
        load_state(weights, self._model, "the averaged weights")
        alone = not dist.is_initialized()
        rank, world = (0, 1) if alone else (dist.get_rank(), dist.get_world_size())
        shares = shared_out([chain.residues for chain in self.chains.chains], world)
        mine = [self._score(self.chains.chains[place]) for place in shares[rank]]
        everyone: list[list[ChainScore]] = [mine] * world
        if not alone:
            dist.all_gather_object(everyone, mine)
        scores = {place: score for share, part in zip(shares, everyone, strict=True) for place, score in zip(share, part, strict=True)}
        return [scores[place] for place in sorted(scores)]

    @torch.no_grad()
    def _score(self, chain: ValidationChain) -> ChainScore:
        record = self._store.record(chain.chain_id)
        cycles = inference_cycles(record, self._config.features, SEED, self._config.validate.recycles + 1)
        output = run_cycles(self._model, [to_device(_tensors(cycle), self._device) for cycle in cycles])
        return score_chain(record, _on_cpu(output), self._config.model, chain.split)


def _tensors(batch: FeatureBatch) -> FeatureBatch:
    return FeatureBatch(*(torch.from_numpy(np.ascontiguousarray(array)) for array in batch))


def _on_cpu(output: ModelOutput) -> ModelOutput:
    """``output`` where the scores are computed, without the representations, which no score reads."""
    empty = torch.empty(0)
    return to_device(output._replace(m=empty, z=empty, masked_msa=empty, recycled=output.recycled._replace(z=empty)), torch.device("cpu"))


def summary(scores: Sequence[ChainScore]) -> dict[str, float]:
    """Means under the journal's names, without intervals; what no chain of a split has is left out."""
    return journal_means(make_report(scores, "", 0, ""))


def by_chain(scores: Sequence[ChainScore]) -> dict[str, dict[str, float | str | int | None]]:
    """Chain id -> its scores, the form of ``summary.json``."""
    return make_report(scores, "", 0, "")["chains"]
