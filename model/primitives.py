"""What every sub-network is made of: layer norm, linear layers with AF2's initialisation, attention, shared dropout.

Masks are float 0/1. An attention mask is broadcast to the logits [*, heads, Q, K]; logits where it is 0 are replaced, not shifted, so
that a query without any key attends uniformly and never gives NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .chunk import Chunked, in_chunks

Init = Literal["default", "relu", "glorot", "gating", "final", "normal"]

# Standard deviation of a unit normal cut at two sigma: what is left of the variance after truncation.
_TRUNCATED_STDDEV = 0.87962566103423978

R = TypeVar("R")


def widen(x: Tensor) -> Tensor:
    """Half precisions in float32; any other tensor itself."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without_autocast(function: Callable[..., R], *tensors: Tensor) -> R:
    """``function(*tensors)`` with autocast off; the tensors keep their types."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):  # an exported graph has no autocast region then
        return function(*tensors)
    with torch.autocast(device, enabled=False):
        return function(*tensors)


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last dimension, eps 1e-5; half precisions are normalised in float32 and returned in their own type."""

    def __init__(self, c: int) -> None:
        super().__init__(c, eps=1e-5)

    def forward(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        if widen(x) is x:
            return super().forward(x)
        return F.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps).to(x.dtype)


class Linear(nn.Linear):
    """Linear layer with AF2's initialisation (supplement 1.11.4); biases start at 0, those of gates at 1.

    ``default`` truncated normal of variance 1/fan-in, ``relu`` the same with 2/fan-in, ``glorot`` uniform, ``normal`` un-truncated
    1/fan-in, ``gating`` and ``final`` zero weights.
    """

    def __init__(self, c_in: int, c_out: int, bias: bool = True, init: Init = "default") -> None:
        self.init: Init = init
        super().__init__(c_in, c_out, bias=bias)

    def reset_parameters(self) -> None:
        with torch.no_grad():
            if self.init in ("gating", "final"):
                self.weight.zero_()
            elif self.init == "glorot":
                nn.init.xavier_uniform_(self.weight)
            elif self.init == "normal":
                self.weight.normal_(0.0, self.in_features**-0.5)
            else:
                std = math.sqrt((2.0 if self.init == "relu" else 1.0) / self.in_features) / _TRUNCATED_STDDEV
                nn.init.trunc_normal_(self.weight, 0.0, std, -2 * std, 2 * std)
            if self.bias is not None:
                self.bias.fill_(1.0 if self.init == "gating" else 0.0)


class ColumnLinear(Linear):
    """Linear layer over the second-last dimension, [*, c_in, N] -> [*, c_out, N], for products that want channels first.

    Nothing is copied: neither the transposed view of a [*, N, c_in] tensor that comes in, nor the result.
    """

    def forward(self, x: Float[Tensor, "*b c_in N"]) -> Float[Tensor, "*b c_out N"]:
        # A leading 1 keeps matmul from folding the batch into the weight's product, which would lay channels out last.
        y = (self.weight if x.dim() == 2 else self.weight.unsqueeze(0)) @ x
        y += self.bias.unsqueeze(-1)
        return y


class DropoutShared(nn.Module):
    """Dropout with one mask along ``axis`` (supplement 1.11.6): -3 drops the same places in all rows, -2 in all columns."""

    def __init__(self, p: float, axis: int) -> None:
        super().__init__()
        self.p, self.axis = p, axis

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        return x * F.dropout(torch.ones_like(x.narrow(self.axis, 0, 1)), self.p)


def mask_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """Attention logits, float32 or wider, with -1e9 wherever ``mask`` (broadcast) is 0. Overwrites ``logits``."""
    return logits.masked_fill_(mask == 0, -1e9)


class Attention(Chunked):
    """Multi-head gated attention. ``c_hidden`` is the width of one head.

    forward(q_x [*, R, Q, c_q], kv_x [*, R, K, c_kv], mask, bias) -> [*, R, Q, c_out]; mask and bias are broadcast to
    [*, R, heads, Q, K]. Chunked over R, the rows that do not see each other. ``c_out`` is ``c_q`` unless given.
    """

    def __init__(self, c_q: int, c_kv: int, c_hidden: int, heads: int, gating: bool = True, c_out: int | None = None) -> None:
        super().__init__()
        self.c_hidden, self.heads = c_hidden, heads
        self.linear_q = Linear(c_q, c_hidden * heads, bias=False, init="glorot")
        self.linear_k = Linear(c_kv, c_hidden * heads, bias=False, init="glorot")
        self.linear_v = Linear(c_kv, c_hidden * heads, bias=False, init="glorot")
        self.linear_g = Linear(c_q, c_hidden * heads, init="gating") if gating else None
        self.linear_o = Linear(c_hidden * heads, c_q if c_out is None else c_out, init="final")

    def forward(self, q_x: Tensor, kv_x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return in_chunks(self._attend, self.chunk_size, -3, (q_x, -3), (kv_x, -3), (mask, -4), (bias, -4))

    def _attend(self, q_x: Tensor, kv_x: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
        q = self._split(self.linear_q(q_x) * self.c_hidden**-0.5)
        k, v = self._split(self.linear_k(kv_x)), self._split(self.linear_v(kv_x))
        logits = widen(q @ k.transpose(-1, -2))
        if bias is not None:
            logits += bias
        if mask is not None:
            logits = mask_logits(logits, mask)
        o = (torch.softmax(logits, -1).to(v.dtype) @ v).transpose(-2, -3).flatten(-2)
        if self.linear_g is not None:
            o = o * torch.sigmoid(self.linear_g(q_x))
        return self.linear_o(o)

    def _split(self, x: Tensor) -> Tensor:
        """[*, N, heads * c] -> [*, heads, N, c], laid out so: the batched product would otherwise copy it transposed."""
        return x.reshape(*x.shape[:-1], self.heads, self.c_hidden).transpose(-2, -3).contiguous()


class GlobalAttention(Chunked):
    """Attention with one query, the mean over the sequence, and keys and values shared by the heads (Algorithm 19, lines 2-7).

    forward(x [*, R, N, c], mask [*, R, N]) -> [*, R, N, c]. Chunked over R.
    """

    def __init__(self, c: int, c_hidden: int, heads: int) -> None:
        super().__init__()
        self.c_hidden, self.heads = c_hidden, heads
        self.linear_q = Linear(c, c_hidden * heads, bias=False, init="glorot")
        self.linear_k = Linear(c, c_hidden, bias=False, init="glorot")
        self.linear_v = Linear(c, c_hidden, bias=False, init="glorot")
        self.linear_g = Linear(c, c_hidden * heads, init="gating")
        self.linear_o = Linear(c_hidden * heads, c, init="final")

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return in_chunks(self._attend, self.chunk_size, -3, (x, -3), (mask, -2))

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        share = (mask / mask.sum(-1, keepdim=True).clamp(min=1.0)).to(x.dtype)
        q = self.linear_q((share.unsqueeze(-2) @ x).squeeze(-2)) * self.c_hidden**-0.5
        q = q.reshape(*q.shape[:-1], self.heads, self.c_hidden)
        k, v = self.linear_k(x), self.linear_v(x)
        logits = mask_logits(widen(q @ k.transpose(-1, -2)), mask.unsqueeze(-2))
        o = (torch.softmax(logits, -1).to(v.dtype) @ v).flatten(-2)
        return self.linear_o(o.unsqueeze(-2) * torch.sigmoid(self.linear_g(x)))
