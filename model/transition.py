"""Transition: the two-layer perceptron after attention, for the MSA (Algorithm 9) and the pair representation (Algorithm 15)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .chunk import Chunked, in_chunks
from .primitives import LayerNorm, Linear


class Transition(Chunked):
    """Layer norm, widening by ``factor``, ReLU, narrowing. Chunked over rows, the third-last dimension."""

    def __init__(self, c: int, factor: int) -> None:
        super().__init__()
        self.layer_norm = LayerNorm(c)
        self.linear_1 = Linear(c, c * factor, init="relu")
        self.linear_2 = Linear(c * factor, c, init="final")

    def forward(self, x: Float[Tensor, "*b R N c"]) -> Float[Tensor, "*b R N c"]:
        """The update of ``x``."""
        return in_chunks(self._transform, self.chunk_size, -3, (x, -3))

    def _transform(self, x: Tensor) -> Tensor:
        return self.linear_2(torch.relu(self.linear_1(self.layer_norm(x))))
