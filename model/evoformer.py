"""The Evoformer (Algorithm 6), the extra-MSA stack (Algorithm 18) and the pair updates that both share with the template stack."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from .config import EvoformerConfig, TemplateConfig
from .msa_attention import MSAColumnAttention, MSAColumnGlobalAttention, MSARowAttentionWithPairBias
from .outer_product import OuterProductMean
from .primitives import DropoutShared, Linear
from .remat import Blocks
from .transition import Transition
from .triangle import TriangleAttention, TriangleMultiplication

MSA = Float[Tensor, "*b N_seq N_res c_m"]
MSAMask = Float[Tensor, "*b N_seq N_res"]
Pair = Float[Tensor, "*b N_res N_res c_z"]
PairMask = Float[Tensor, "*#b N_res N_res"]


class PairCore(nn.Module):
    """Triangle multiplications, triangle attentions, transition: lines 6-10 of Algorithm 6.

    ``attention_first`` is the order of the template stack (Algorithm 16).
    """

    def __init__(self, c_z: int, config: EvoformerConfig | TemplateConfig, attention_first: bool = False) -> None:
        super().__init__()
        self.attention_first = attention_first
        self.triangle_multiplication_outgoing = TriangleMultiplication(c_z, config.c_hidden_tri_mul, "outgoing")
        self.triangle_multiplication_incoming = TriangleMultiplication(c_z, config.c_hidden_tri_mul, "incoming")
        self.triangle_attention_starting = TriangleAttention(c_z, config.c_hidden_tri_att, config.heads_tri, "starting")
        self.triangle_attention_ending = TriangleAttention(c_z, config.c_hidden_tri_att, config.heads_tri, "ending")
        self.transition = Transition(c_z, config.transition_factor)
        self.dropout_row = DropoutShared(config.dropout_pair, axis=-3)
        self.dropout_column = DropoutShared(config.dropout_pair, axis=-2)

    def forward(self, z: Pair, pair_mask: PairMask) -> Pair:
        """The new ``z``."""
        if self.attention_first:
            z = self._multiply(self._attend(z, pair_mask), pair_mask)
        else:
            z = self._attend(self._multiply(z, pair_mask), pair_mask)
        return z + self.transition(z)

    def _multiply(self, z: Pair, pair_mask: PairMask) -> Pair:
        z = z + self.dropout_row(self.triangle_multiplication_outgoing(z, pair_mask))
        return z + self.dropout_row(self.triangle_multiplication_incoming(z, pair_mask))

    def _attend(self, z: Pair, pair_mask: PairMask) -> Pair:
        z = z + self.dropout_row(self.triangle_attention_starting(z, pair_mask))
        return z + self.dropout_column(self.triangle_attention_ending(z, pair_mask))


class EvoformerBlock(nn.Module):
    """One block of Algorithm 6; with ``global_column`` one of Algorithm 18."""

    def __init__(self, c_m: int, c_z: int, config: EvoformerConfig, global_column: bool = False) -> None:
        super().__init__()
        column = MSAColumnGlobalAttention if global_column else MSAColumnAttention
        self.row_attention = MSARowAttentionWithPairBias(c_m, c_z, config.c_hidden_msa_att, config.heads_msa)
        self.column_attention = column(c_m, config.c_hidden_msa_att, config.heads_msa)
        self.msa_transition = Transition(c_m, config.transition_factor)
        self.outer_product_mean = OuterProductMean(c_m, c_z, config.c_hidden_outer)
        self.pair = PairCore(c_z, config)
        self.dropout_row = DropoutShared(config.dropout_msa, axis=-3)

    def forward(self, m: MSA, z: Pair, msa_mask: MSAMask, pair_mask: PairMask) -> tuple[MSA, Pair]:
        """The new (m, z)."""
        m = m + self.dropout_row(self.row_attention(m, z, msa_mask))
        m = m + self.column_attention(m, msa_mask)
        m = m + self.msa_transition(m)
        z = z + self.outer_product_mean(m, msa_mask)
        return m, self.pair(z, pair_mask)


class EvoformerStack(nn.Module):
    """The main stack (Algorithm 6): (m, z, msa_mask, pair_mask) -> (m, z, s) with ``s`` [*, N_res, c_s] from the first MSA row."""

    def __init__(self, c_m: int, c_z: int, c_s: int, config: EvoformerConfig) -> None:
        super().__init__()
        self.blocks = Blocks(EvoformerBlock(c_m, c_z, config) for _ in range(config.blocks))
        self.linear_s = Linear(c_m, c_s)

    def forward(self, m: MSA, z: Pair, msa_mask: MSAMask, pair_mask: PairMask) -> tuple[MSA, Pair, Float[Tensor, "*b N_res c_s"]]:
        m, z = self.blocks.run((m, z), msa_mask, pair_mask)
        return m, z, self.linear_s(m[..., 0, :, :])


class ExtraMSAStack(nn.Module):
    """The stack over the extra MSA (Algorithm 18): (e, z, msa_mask, pair_mask) -> z. Its MSA is dropped."""

    def __init__(self, c_e: int, c_z: int, config: EvoformerConfig) -> None:
        super().__init__()
        self.blocks = Blocks(EvoformerBlock(c_e, c_z, config, global_column=True) for _ in range(config.blocks))

    def forward(self, e: MSA, z: Pair, msa_mask: MSAMask, pair_mask: PairMask) -> Pair:
        return self.blocks.run((e, z), msa_mask, pair_mask)[1]
