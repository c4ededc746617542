"""Invariant point attention (AF2 supplement 1.8.2, Algorithm 22)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .config import StructureConfig
from .primitives import Linear
from .rigid import Rigid

_NORM_EPSILON = 1e-8  # under the root of a value point's length
_MASKED = 1e5  # subtracted from the logits of pairs with a masked residue
_SOFTPLUS_INVERSE_OF_1 = math.log(math.e - 1.0)


class InvariantPointAttention(nn.Module):
    """Attention over residues by features, pair bias and distances of points that move with the frames (Algorithm 22).

    Projections keep heads and channels in the order [heads, query or key | value]; those of points [xyz, heads, points], key points
    before value points. The result is unchanged by a rigid motion of all frames.
    """

    def __init__(self, c_s: int, c_z: int, config: StructureConfig) -> None:
        super().__init__()
        self.heads, self.c_hidden, self.c_value = config.heads, config.c_hidden, config.c_value or config.c_hidden
        self.query_points, self.value_points = config.query_points, config.value_points
        self.linear_q = Linear(c_s, self.heads * self.c_hidden)
        self.linear_kv = Linear(c_s, self.heads * (self.c_hidden + self.c_value))
        self.linear_q_points = Linear(c_s, 3 * self.heads * self.query_points)
        self.linear_kv_points = Linear(c_s, 3 * self.heads * (self.query_points + self.value_points))
        self.linear_b = Linear(c_z, self.heads)
        self.head_weights = nn.Parameter(torch.full((self.heads,), _SOFTPLUS_INVERSE_OF_1))
        self.linear_out = Linear(self.heads * (self.c_value + 4 * self.value_points + c_z), c_s, init="final")

    def forward(
        self, s: Float[Tensor, "*b N_res c_s"], z: Float[Tensor, "*b N_res N_res c_z"], rigid: Rigid, mask: Float[Tensor, "*b N_res"]
    ) -> Float[Tensor, "*b N_res c_s"]:
        """Update of ``s`` [*, N_res, c_s]. ``rigid`` [*, N_res] in internal units; ``mask`` 0 for residues that nobody attends to."""
        rigid = _centred(rigid, mask).unsqueeze(-1).unsqueeze(-1)  # [*, N_res, head, point]
        q = self._by_head(self.linear_q(s))
        k, v = self._by_head(self.linear_kv(s)).split((self.c_hidden, self.c_value), -1)
        q_points = rigid.apply(self._points(self.linear_q_points(s)))
        k_points, v_points = rigid.apply(self._points(self.linear_kv_points(s))).split((self.query_points, self.value_points), -2)
        logits = self._distance_logits(q_points, k_points)
        logits = logits + math.sqrt(1 / (3 * self.c_hidden)) * (_heads_first(q) @ _heads_first(k).transpose(-1, -2))
        logits = logits + math.sqrt(1 / 3) * self.linear_b(z).transpose(-1, -2).transpose(-2, -3)
        pair_mask = mask.unsqueeze(-1) * mask.unsqueeze(-2)
        attention = torch.softmax(logits - _MASKED * (1 - pair_mask).unsqueeze(-3), -1)
        o = (attention @ _heads_first(v)).transpose(-2, -3)
        o_points = (attention @ _heads_first(v_points.flatten(-2))).transpose(-2, -3)
        o_points = rigid.invert_apply(o_points.reshape(*o_points.shape[:-1], self.value_points, 3))
        lengths = torch.sqrt(o_points.square().sum(-1) + _NORM_EPSILON)
        o_pair = attention.transpose(-2, -3) @ z  # [*, N_res, head, c_z]
        parts = (o.flatten(-2), o_points.flatten(-3, -2).transpose(-1, -2).flatten(-2), lengths.flatten(-2), o_pair.flatten(-2))
        return self.linear_out(torch.cat(parts, -1))

    def _distance_logits(self, q_points: Tensor, k_points: Tensor) -> Tensor:
        """-1/2 gamma w_C sum of squared distances, [*, head, N_res, N_res]; the points are [*, N_res, head, point, 3].

        |q|^2 + |k|^2 - 2 q.k never holds a tensor of pairs times points, and is why the points must be centred.
        """
        weights = F.softplus(self.head_weights) * math.sqrt(1 / (3 * self.query_points * 9 / 2))
        q, k = _heads_first(q_points.flatten(-2)), _heads_first(k_points.flatten(-2))
        square = q.square().sum(-1, keepdim=True) + k.square().sum(-1).unsqueeze(-2) - 2 * (q @ k.transpose(-1, -2))
        return -0.5 * weights[:, None, None] * square

    def _by_head(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.heads, -1)

    def _points(self, x: Tensor) -> Tensor:
        """[*, N_res, 3 * heads * points] -> [*, N_res, heads, points, 3]."""
        xyz = torch.stack(x.chunk(3, -1), -1)
        return xyz.reshape(*xyz.shape[:-2], self.heads, -1, 3)


def _centred(rigid: Rigid, mask: Tensor) -> Rigid:
    """The same frames about the mean position of the unmasked: squared distances lose digits far from the origin.

    The motion cancels in the result, so no gradient is kept of it.
    """
    weights = mask.unsqueeze(-1)
    mean = (rigid.translations * weights).sum(-2, keepdim=True) / weights.sum(-2, keepdim=True).clamp(min=1.0)
    return Rigid(rigid.rotations, rigid.translations - mean.detach())


def _heads_first(x: Tensor) -> Tensor:
    """[*, N_res, head, c] -> [*, head, N_res, c]."""
    return x.transpose(-2, -3)
