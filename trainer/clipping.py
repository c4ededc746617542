"""From losses to the step's gradient: clipped sample by sample as AF2 does (supplement 1.11.3), over the whole batch, or not at all.

Clipping samples needs each sample's own gradient before anything is added or sent. DeepSpeed reduces during the backward pass; it is told
to wait (``coalesce_grad_reduction``, ``no_sync`` at stage 0): each backward pass leaves one sample's gradient on the parameters, which is
scaled and added up there, and one reduction per step sends the sum. What it costs: one float32 gradient of all parameters per rank at every
ZeRO stage, two where a rank has several samples per step (docs/training.md has the measurement).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ..data_store.types import FeatureBatch, Targets, TrainBatch
from ..errors import FoldlineError
from .config import RunConfig, passes_per_step


class Gradients(Protocol):
    """How the losses of one optimizer step become its gradient. ``norms``: of this rank's samples, where they are clipped one by one."""

    @property
    def norms(self) -> Sequence[Tensor]: ...

    def collecting(self) -> AbstractContextManager[None]:
        """Every forward and backward pass of a step happens inside; when it ends the gradient is averaged over the ranks. Collective."""

    def split(self, batch: TrainBatch) -> list[TrainBatch]:
        """What goes through the network at once, in order."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Differentiate the mean loss of one part of ``split``; ``last``: no other follows in this step."""

    def metrics(self, norm: float) -> dict[str, float]:
        """What clipping did in this step, over all ranks; ``norm`` is the averaged gradient's. Collective."""


def make_gradients(engine: Any, config: RunConfig) -> Gradients:
    """The way that ``optim.clip`` names. ``engine`` is DeepSpeed's."""
    if config.optim.clip == "sample":
        return SampleGradients(engine, config)
    return BatchGradients(engine, config.optim.clip_norm if config.optim.clip == "batch" else float("inf"))


class BatchGradients:
    """Micro-batches whole; DeepSpeed averages, and clips the step's gradient by its norm."""

    def __init__(self, engine: Any, limit: float) -> None:
        self.norms: Sequence[Tensor] = ()
        self._engine = engine
        self._limit = limit

    def collecting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def split(self, batch: TrainBatch) -> list[TrainBatch]:
        return [batch]

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.backward(loss)
        if not last:
            self._engine.step()  # only counts: the optimizer waits for the last part

    def metrics(self, norm: float) -> dict[str, float]:
        return {"optim/clipped_share": float(norm > self._limit)}


class SampleGradients:
    """Samples one by one, each one's gradient clipped by its own norm before it is added to the others'."""

    def __init__(self, engine: Any, config: RunConfig) -> None:
        self._engine = engine
        self._reduces = config.deepspeed.zero_stage > 0
        if self._reduces and not hasattr(engine, "coalesce_grad_reduction"):
            raise FoldlineError('optim.clip = "sample" needs a newer DeepSpeed (0.19.8 has it): pip install -U deepspeed')
        self._limit = config.optim.clip_norm
        self._samples = config.run.micro_batch * passes_per_step(config, dist.get_world_size())
        self._parameters = [p for p in engine.module.parameters() if p.requires_grad]
        self._sum: list[Tensor] = []
        self.norms: list[Tensor] = []

    @contextmanager
    def collecting(self) -> Iterator[None]:
        self._sum, self.norms = [], []
        with self._engine.coalesce_grad_reduction() if self._reduces else self._engine.no_sync():
            yield
        if not self._reduces:
            self._engine.allreduce_gradients()

    def split(self, batch: TrainBatch) -> list[TrainBatch]:
        return [sample_of(batch, i) for i in range(len(batch.position))]

    @torch.no_grad()
    def _clip(self) -> list[Tensor]:
        """The sample's gradient, scaled in place to its share of the rank's mean."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.norms.append(norm)
        torch._foreach_mul_(gradients, self._limit / norm.clamp(min=self._limit) / self._samples)  # a norm that is not finite stays so
        return gradients

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.backward(loss, scale_wrt_gas=False)
        gradients = self._clip()
        if last:  # onto the parameters, where DeepSpeed looks for it
            if self._sum:
                torch._foreach_add_(gradients, self._sum)
            self._sum = []
            return
        if self._sum:
            torch._foreach_add_(self._sum, gradients)
        else:
            self._sum = gradients
        for parameter in self._parameters:
            parameter.grad = None

    def metrics(self, norm: float) -> dict[str, float]:
        mine = torch.stack(self.norms).double()
        everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, mine)
        norms = torch.cat(everyone)
        return {
            "optim/sample_norm_mean": float(norms.mean()),
            "optim/sample_norm_max": float(norms.max()),
            "optim/clipped_share": float((norms > self._limit).double().mean()),
        }


def sample_of(batch: TrainBatch, index: int) -> TrainBatch:
    """Sample ``index`` of a micro-batch as a micro-batch of one; it keeps its padding."""
    cycles = tuple(FeatureBatch(*(field[index : index + 1] for field in cycle)) for cycle in batch.cycles)
    targets = Targets(*(field[index : index + 1] for field in batch.targets))
    return TrainBatch(cycles, targets, batch.position[index : index + 1])
