"""Attention inside the MSA: along rows with pair bias (Algorithm 7), along columns (Algorithm 8), global columns (Algorithm 19)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from .primitives import Attention, GlobalAttention, LayerNorm, Linear

MSA = Float[Tensor, "*b N_seq N_res c_m"]
MSAMask = Float[Tensor, "*b N_seq N_res"]


class MSARowAttentionWithPairBias(nn.Module):
    """Each sequence attends along its residues, biased by the pair representation (Algorithm 7)."""

    def __init__(self, c_m: int, c_z: int, c_hidden: int, heads: int) -> None:
        super().__init__()
        self.layer_norm_m = LayerNorm(c_m)
        self.layer_norm_z = LayerNorm(c_z)
        self.linear_bias = Linear(c_z, heads, bias=False, init="normal")
        self.attention = Attention(c_m, c_m, c_hidden, heads)

    def forward(self, m: MSA, z: Float[Tensor, "*b N_res N_res c_z"], msa_mask: MSAMask) -> MSA:
        """The update of ``m``."""
        m = self.layer_norm_m(m)
        bias = self.linear_bias(self.layer_norm_z(z)).transpose(-1, -2).transpose(-2, -3).unsqueeze(-4)
        return self.attention(m, m, msa_mask[..., None, None, :], bias)


class MSAColumnAttention(nn.Module):
    """Each residue's column attends along the sequences (Algorithm 8)."""

    def __init__(self, c_m: int, c_hidden: int, heads: int) -> None:
        super().__init__()
        self.layer_norm_m = LayerNorm(c_m)
        self.attention = Attention(c_m, c_m, c_hidden, heads)

    def forward(self, m: MSA, msa_mask: MSAMask) -> MSA:
        """The update of ``m``."""
        columns = self.layer_norm_m(m.transpose(-2, -3))
        mask = msa_mask.transpose(-1, -2)[..., None, None, :]
        return self.attention(columns, columns, mask).transpose(-2, -3)


class MSAColumnGlobalAttention(nn.Module):
    """Column attention with a single mean query, for the deep extra MSA (Algorithm 19)."""

    def __init__(self, c_e: int, c_hidden: int, heads: int) -> None:
        super().__init__()
        self.layer_norm_m = LayerNorm(c_e)
        self.attention = GlobalAttention(c_e, c_hidden, heads)

    def forward(self, m: MSA, msa_mask: MSAMask) -> MSA:
        """The update of ``m``."""
        return self.attention(self.layer_norm_m(m.transpose(-2, -3)), msa_mask.transpose(-1, -2)).transpose(-2, -3)
