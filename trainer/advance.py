"""One optimizer step on all ranks: measured, agreed upon, and skipped where it is not finite."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ..data_store.types import TrainBatch
from ..model.outputs import Loss
from .clipping import make_gradients
from .clock import Clock, time_metrics
from .config import RunConfig, passes_per_step, samples_per_step
from .ema import Ema
from .optimizer import learning_rate, set_learning_rate
from .skip import Seen, Skips
from .speed import Speed
from .step import StepOutput, to_device
from .straggler import Own, everybody, slots

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Set by SIGTERM or SIGUSR1 on any rank; the run ends after the step in which the ranks agree on it."""

    def __init__(self) -> None:
        self.raised = False
        for number in STOP_SIGNALS:
            signal.signal(number, self._raise)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.raised = True


class Stepper:
    """Draws batches and advances the engine. ``stopped`` is true once some rank was asked to stop; ``paces`` has every rank's own times of
    the step before the last, all zero at first.
    """

    def __init__(self, engine: Any, batches: Iterator[TrainBatch], config: RunConfig, device: torch.device) -> None:
        self.stopped = False
        self._engine = engine
        self._batches = batches
        self._config = config
        self._device = device
        self._stop = StopRequest()
        self._passes = passes_per_step(config, dist.get_world_size())
        self._samples = samples_per_step(config, dist.get_world_size())
        self._gradients = make_gradients(engine, config)
        self.skips = Skips(engine, config)
        self._speed = Speed(config, device)
        self._clock = Clock(device)
        self._clock.watch(engine.module.model)
        self._pace = Own(0.0, 0.0)
        self.paces = [self._pace] * dist.get_world_size()

    def advance(self, step: int, ema: Ema) -> dict[str, float]:
        """Take optimizer step number ``step`` (from 1), update ``ema``; the step's metrics, means over all ranks' samples. Collective.

        Where a loss or the gradient is not finite nothing moves, on any rank; ``skips`` then has a notice.
        """
        clock = self._clock
        clock.start()
        outputs: list[StepOutput] = []
        residues, cycles = 0.0, 0
        seen: list[Seen] = []
        rate = learning_rate(step * self._samples, self._config.optim)
        set_learning_rate(self._engine.optimizer, rate)
        with self._gradients.collecting():
            for left in reversed(range(self._passes)):
                batch = next(self._batches)
                residues, cycles = residues + float(batch.cycles[-1].seq_mask.sum()), cycles + len(batch.cycles)
                parts = self._gradients.split(batch)
                clock.lap("data_wait")
                for part in parts:
                    places = part.position.flatten().tolist()
                    torch.manual_seed(mixed_seed(self._config.run.seed, *places))  # dropout, alike for every number of ranks
                    moved = to_device(part, self._device)
                    clock.lap("host_to_device")
                    output: StepOutput = self._engine(moved)
                    clock.lap("losses")
                    self._gradients.backward(output.scaled, last=left == 0 and part is parts[-1])
                    clock.lap("backward")
                    outputs.append(output)
                    seen.append(Seen.of(part, output.terms))
        metrics, residues = self._agree(outputs, residues)
        clock.lap("communication")
        norm = self.skips.step(self._gradient_norm())
        clock.lap("optimizer")
        if self.skips.judge(step, norm, seen, self._gradients.norms):
            ema.update()
        clock.lap("ema")
        metrics |= {"optim/grad_norm": norm, "optim/lr": rate, "skip/count": self.skips.count} | self._gradients.metrics(norm)
        times = time_metrics(clock)
        self._pace = Own.of(times)
        speed = self._speed.metrics(times["time/step"], self._samples, residues, cycles / self._passes, times["time/data_wait"])
        return metrics | times | speed

    def _agree(self, outputs: list[StepOutput], residues: float) -> tuple[dict[str, float], float]:
        """The parts' terms averaged and ``residues`` summed over ranks; whether any rank is to stop, and the paces of the step before."""
        rows = [torch.stack([*output.terms, output.lddt_ca]).double() for output in outputs]
        mine = torch.stack(rows).mean(0)
        rank, world = dist.get_rank(), dist.get_world_size()
        shared = torch.cat([mine, mine.new_tensor([residues, float(self._stop.raised), *slots(self._pace, rank, world)])])
        dist.all_reduce(shared)
        self.paces = everybody(shared[-2 * world :].tolist())
        *values, residues, stop = (shared[: -2 * world] / world).tolist()
        self.stopped = stop > 0
        names = [*(f"loss/{name}" for name in Loss._fields), "train/lddt_ca"]
        return dict(zip(names, values, strict=True)), residues * world

    def _gradient_norm(self) -> float | None:
        """The norm where DeepSpeed will not say: at stage 0 it clips plain gradients without keeping the norm."""
        if self._config.deepspeed.zero_stage:
            return None
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))


def mixed_seed(*parts: int) -> int:
    """A 63-bit seed from several numbers, so that a step's random numbers do not depend on what ran before it."""
    low, high = np.random.SeedSequence(parts).generate_state(2)
    return (int(high) << 31) ^ int(low)
