"""Where a step's time goes. On CUDA by events in the stream: nothing waits for a measurement until the step is over."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

# Laps of a step, in order; "losses" is what a forward pass does outside of the network.
LAPS = ("data_wait", "host_to_device", "recycles", "last_pass", "losses", "backward", "communication", "optimizer", "ema")


class Clock:
    """Seconds of a step by lap. ``watch`` hooks a network, so that the passes inside a forward pass are laps of their own."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []
        self.recycles = 0

    def start(self) -> None:
        """A new step begins."""
        self._marks, self.recycles = [("", self._now())], 0

    def lap(self, name: str) -> None:
        """What was done since the last lap was ``name``."""
        self._marks.append((name, self._now()))

    def watch(self, network: nn.Module) -> None:
        """From now on each call of ``network`` is a lap: "last_pass" where it is differentiated, else "recycles"."""
        network.register_forward_pre_hook(lambda *_: self.lap("losses"))
        network.register_forward_hook(self._passed)

    def seconds(self) -> dict[str, float]:
        """Every lap's sum. Waits for the device."""
        if self._cuda:
            self._marks[-1][1].synchronize()
        sums = dict.fromkeys(LAPS, 0.0)
        for (_, before), (name, after) in zip(self._marks, self._marks[1:], strict=False):
            sums[name] += before.elapsed_time(after) / 1e3 if self._cuda else after - before
        return sums

    def _passed(self, *_: Any) -> None:
        differentiated = torch.is_grad_enabled()
        self.recycles += not differentiated
        self.lap("last_pass" if differentiated else "recycles")

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def time_metrics(clock: Clock) -> dict[str, float]:
    """``time/*``: the laps, one recycling pass's mean, the forward passes together, the whole step."""
    laps = clock.seconds()
    forward = laps["recycles"] + laps["last_pass"] + laps["losses"]
    return {f"time/{name}": value for name, value in laps.items()} | {
        "time/recycle_each": laps["recycles"] / max(1, clock.recycles),
        "time/forward": forward,
        "time/step": max(sum(laps.values()), 1e-9),
    }
