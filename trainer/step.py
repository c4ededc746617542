"""One micro-batch through the network and the losses: what DeepSpeed wraps."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..data_store.residues import CA
from ..data_store.types import TrainBatch
from ..model.alphafold import AlphaFold, run_cycles
from ..model.losses.total import AlphaFoldLoss, scale_by_length
from ..model.metrics import lddt_ca
from ..model.outputs import Loss
from ..model.precision import apply_precision, find_policy
from ..model.remat import checkpoint_blocks, recompute
from .config import RunConfig
from .engine import deepspeed_checkpoint
from .skip import poison

T = TypeVar("T")


class StepOutput(NamedTuple):
    """``scaled`` is the scalar to differentiate: the total × sqrt(N_res). ``terms`` (unscaled) and ``lddt_ca`` are detached scalars."""

    scaled: Tensor
    terms: Loss
    lddt_ca: Tensor


class TrainingStep(nn.Module):
    """The network under its losses. ``model`` is the ``AlphaFold`` whose weights are trained."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.model = AlphaFold(config.model)
        self.loss = AlphaFoldLoss(config.model)
        by = deepspeed_checkpoint if config.deepspeed.checkpointing == "deepspeed" else recompute
        checkpoint_blocks(self.model, config.deepspeed.checkpoint_blocks_every, by)
        apply_precision(self.model, find_policy(config.deepspeed.precision))

    def forward(self, batch: TrainBatch) -> StepOutput:
        """All passes of the batch, only the last of them differentiated; means over the batch dimension."""
        features, targets = batch.cycles[-1], batch.targets
        output = run_cycles(self.model, batch.cycles)
        loss = self.loss.per_sample(output, features, targets)
        with torch.no_grad():
            positions = output.structure.positions.float()
            lddt = lddt_ca(positions[..., CA, :], targets.positions[..., CA, :], targets.atom_mask[..., CA]).mean
        scaled = scale_by_length(loss.total, features.seq_mask)
        return StepOutput(poison(scaled), Loss(*(term.detach().mean() for term in loss)), lddt.mean())


def to_device(value: T, device: torch.device) -> T:
    """``value`` with every tensor in it on ``device``; NamedTuples and tuples keep their types."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)  # type: ignore[return-value]
    if isinstance(value, tuple):
        moved = [to_device(item, device) for item in value]
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)  # type: ignore[return-value]
    return value
