"""Outer product mean: how the MSA speaks to the pair representation (Algorithm 10)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from .chunk import Chunked, in_chunks
from .primitives import ColumnLinear, LayerNorm, Linear, without_autocast


class OuterProductMean(Chunked):
    """Mean over sequences of the outer product of two projections, mapped to ``c_z`` channels (Algorithm 10).

    As in the released implementation the output bias is inside the mean: a pair of residues that no sequence covers gets
    1000 x bias. Projections may run in half precision; sums over sequences, the output layer and the row count run in the type of the
    output layer's parameters, autocast or not: they add up thousands of terms. Chunked over the first residue.
    """

    def __init__(self, c_m: int, c_z: int, c_hidden: int) -> None:
        super().__init__()
        self.layer_norm = LayerNorm(c_m)
        self.linear_a = Linear(c_m, c_hidden)
        self.linear_b = Linear(c_m, c_hidden)
        self.linear_out = ColumnLinear(c_hidden * c_hidden, c_z, init="final")

    def forward(
        self, m: Float[Tensor, "*b N_seq N_res c_m"], msa_mask: Float[Tensor, "*b N_seq N_res"]
    ) -> Float[Tensor, "*b N_res N_res c_z"]:
        """The update of the pair representation."""
        m = self.layer_norm(m)
        a, b = self.linear_a(m), self.linear_b(m)
        return without_autocast(self._mean, a, b, msa_mask).to(a.dtype)

    def _mean(self, a: Tensor, b: Tensor, msa_mask: Tensor) -> Tensor:
        """Projections [*, N_seq, N_res, c] -> the masked mean of their outer product, [*, N_res, N_res, c_z]."""
        dtype = self.linear_out.weight.dtype
        a, b, mask = a.to(dtype), b.to(dtype), msa_mask.unsqueeze(-1).to(dtype)
        a, b = (a * mask).transpose(-2, -3), (b * mask).transpose(-2, -3)
        norm = msa_mask.transpose(-1, -2) @ msa_mask
        return in_chunks(lambda a_rows, norm_rows: self._rows(a_rows, norm_rows, b), self.chunk_size, -3, (a, -3), (norm, -2))

    def _rows(self, a: Tensor, norm: Tensor, b: Tensor) -> Tensor:
        """a [*, I, N_seq, c], b [*, J, N_seq, c], norm [*, I, J] -> [*, I, J, c_z]."""
        c = a.shape[-1]
        left = a.transpose(-1, -2).flatten(-3, -2)  # [*, I c, N_seq]
        right = b.transpose(-3, -1).transpose(-3, -2).flatten(-2)  # [*, N_seq, c J]
        # [*, I, c c, J]: with J last the largest tensor of the block is never copied.
        outer = (left @ right).reshape(*a.shape[:-2], c * c, b.shape[-3])
        return (self.linear_out(outer) / (norm.unsqueeze(-2) + 1e-3)).transpose(-1, -2)
