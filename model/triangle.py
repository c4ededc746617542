"""Triangle updates of the pair representation: multiplication (Algorithms 11, 12) and attention (Algorithms 13, 14)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .primitives import Attention, ColumnLinear, LayerNorm, Linear

Pair = Float[Tensor, "*b N_res N_res c_z"]
PairMask = Float[Tensor, "*#b N_res N_res"]


class TriangleMultiplication(nn.Module):
    """Update of edge ij from the two other edges of every triangle ijk (Algorithms 11 and 12).

    ``a`` is the projection of the first node's edge (ik outgoing, ki incoming) and ``b`` of the second's (jk, kj).
    """

    def __init__(self, c_z: int, c_hidden: int, direction: Literal["outgoing", "incoming"]) -> None:
        super().__init__()
        self.direction = direction
        self.layer_norm_in = LayerNorm(c_z)
        self.linear_a_p = ColumnLinear(c_z, c_hidden)
        self.linear_a_g = ColumnLinear(c_z, c_hidden, init="gating")
        self.linear_b_p = ColumnLinear(c_z, c_hidden)
        self.linear_b_g = ColumnLinear(c_z, c_hidden, init="gating")
        self.layer_norm_out = LayerNorm(c_hidden)
        self.linear_z = Linear(c_hidden, c_z, init="final")
        self.linear_g = Linear(c_z, c_z, init="gating")

    def forward(self, z: Pair, pair_mask: PairMask) -> Pair:
        """The update of ``z``."""
        z = self.layer_norm_in(z)
        columns, mask = z.flatten(-3, -2).transpose(-1, -2), pair_mask.flatten(-2).unsqueeze(-2)
        a, b = self.linear_a_p(columns), self.linear_b_p(columns)
        mask = mask.to(a.dtype)
        a = self._square(a * torch.sigmoid(self.linear_a_g(columns)) * mask, z)
        b = self._square(b * torch.sigmoid(self.linear_b_g(columns)) * mask, z)
        x = a @ b.transpose(-1, -2) if self.direction == "outgoing" else a.transpose(-1, -2) @ b
        return self.linear_z(self.layer_norm_out(x.transpose(-3, -2).transpose(-2, -1))) * torch.sigmoid(self.linear_g(z))

    @staticmethod
    def _square(x: Tensor, z: Tensor) -> Tensor:
        """[*, c, N_res N_res] -> [*, c, N_res, N_res]."""
        return x.reshape(*x.shape[:-1], *z.shape[-3:-1])


class TriangleAttention(nn.Module):
    """Edges that share their starting (Algorithm 13) or ending node (Algorithm 14) attend to each other, biased by the third edge."""

    def __init__(self, c_z: int, c_hidden: int, heads: int, node: Literal["starting", "ending"]) -> None:
        super().__init__()
        self.node = node
        self.layer_norm = LayerNorm(c_z)
        self.linear_bias = Linear(c_z, heads, bias=False, init="normal")
        self.attention = Attention(c_z, c_z, c_hidden, heads)

    def forward(self, z: Pair, pair_mask: PairMask) -> Pair:
        """The update of ``z``."""
        if self.node == "ending":
            return self._attend(z.transpose(-2, -3), pair_mask.transpose(-1, -2)).transpose(-2, -3)
        return self._attend(z, pair_mask)

    def _attend(self, z: Pair, pair_mask: PairMask) -> Pair:
        z = self.layer_norm(z)
        bias = self.linear_bias(z).transpose(-1, -2).transpose(-2, -3).unsqueeze(-4)
        return self.attention(z, z, pair_mask[..., None, None, :], bias)
