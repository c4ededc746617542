"""Exponential moving average of the weights, over whatever share of them this rank owns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Ema:
    """Averages of ``sources``: fp32 tensors that the optimizer updates in place (AF2 supplement 1.11.7, decay 0.999).

    Under ZeRO the sources are this rank's partitions, so the average costs 1/world of the weights per rank and no communication; the
    law is the same as for the whole weights because it is elementwise.
    """

    def __init__(self, sources: Sequence[Tensor], decay: float) -> None:
        self._sources = list(sources)
        self.decay = decay
        self.averages = [source.detach().clone() for source in sources]

    @torch.no_grad()
    def update(self) -> None:
        """One step: average ← decay · average + (1 - decay) · source."""
        torch._foreach_lerp_(self.averages, [source.detach() for source in self._sources], 1.0 - self.decay)

    @torch.no_grad()
    def load(self, averages: Sequence[Tensor]) -> None:
        """Take over saved ``averages``, one per source and of its shape."""
        for mine, saved in zip(self.averages, averages, strict=True):
            mine.copy_(saved)
