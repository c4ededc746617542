"""Embedders: input (Algorithm 3), relative positions (Algorithms 4, 5), recycling (Algorithm 32) and the extra MSA."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import FoldlineError
from .config import EmbedderConfig
from .outputs import Recycled
from .primitives import LayerNorm, Linear

C_TARGET, C_MSA, EXTRA_CLASSES = 22, 49, 23


def one_hot(index: Int[Tensor, "*b"], classes: int, like: Tensor) -> Float[Tensor, "*b classes"]:
    """One-hot in the floating type of ``like``; an index outside 0..classes-1 gives zeros."""
    return (index.unsqueeze(-1) == torch.arange(classes, device=index.device)).to(like.dtype)


def distance_bins(x: Float[Tensor, "*b N 3"], min_bin: float, max_bin: float, bins: int) -> Float[Tensor, "*b N N bins"]:
    """One-hot distance bins of all pairs; bin k starts at its edge in ``linspace(min_bin, max_bin, bins)`` (ångström), the last is open.

    Pairs nearer than ``min_bin``, and those exactly on an edge, have no bin.
    """
    squared = (x.unsqueeze(-2) - x.unsqueeze(-3)).square().sum(-1, keepdim=True)
    lower = torch.linspace(min_bin, max_bin, bins, device=x.device, dtype=x.dtype).square()
    upper = torch.cat((lower[1:], lower.new_full((1,), 1e8)))
    return ((squared > lower) & (squared < upper)).to(x.dtype)


class RelativePosition(nn.Module):
    """Clipped relative residue index as pair features (Algorithm 4).

    With ``config.use_chain_relative`` the encoding of AF2-Multimer (its section 7.2): residues of other chains have a class of their
    own, and same entity and clipped relative copy number (``sym_id``) are added.
    """

    def __init__(self, c_z: int, config: EmbedderConfig) -> None:
        super().__init__()
        self.max_relative, self.max_chain = config.max_relative, config.max_relative_chain
        self.use_chain_relative = config.use_chain_relative
        classes = 2 * self.max_relative + 1
        self.linear = Linear(classes + 1 + 1 + 2 * self.max_chain + 2 if self.use_chain_relative else classes, c_z)

    def forward(
        self, residue_index: Int[Tensor, "*b N"], chains: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> Float[Tensor, "*b N N c_z"]:
        """``chains`` is (asym_id, entity_id, sym_id), each [*, N]; read only by the chain-relative encoding, which needs it."""
        offset = _clipped_offset(residue_index, self.max_relative)
        like = self.linear.weight
        if not self.use_chain_relative:
            return self.linear(one_hot(offset, 2 * self.max_relative + 1, like))
        if chains is None:
            raise FoldlineError("chain-relative positions need asym_id, entity_id and sym_id; pass them, or set use_chain_relative = false")
        asym_id, entity_id, sym_id = chains
        same_chain, same_entity = _same(asym_id), _same(entity_id)
        offset = offset.where(same_chain, offset.new_full((), 2 * self.max_relative + 1))
        copy = _clipped_offset(sym_id, self.max_chain)
        copy = copy.where(same_entity, copy.new_full((), 2 * self.max_chain + 1))
        features = (
            one_hot(offset, 2 * self.max_relative + 2, like),
            same_entity.unsqueeze(-1).to(like.dtype),
            one_hot(copy, 2 * self.max_chain + 2, like),
        )
        return self.linear(torch.cat(features, -1))


def _clipped_offset(index: Tensor, limit: int) -> Tensor:
    return (index.unsqueeze(-1) - index.unsqueeze(-2) + limit).clamp(0, 2 * limit)


def _same(index: Tensor) -> Tensor:
    return index.unsqueeze(-1) == index.unsqueeze(-2)


class InputEmbedder(nn.Module):
    """Target and MSA features -> first MSA and pair representations, with relative positions (Algorithm 3)."""

    def __init__(self, c_m: int, c_z: int, config: EmbedderConfig) -> None:
        super().__init__()
        self.linear_target_m = Linear(C_TARGET, c_m)
        self.linear_msa_m = Linear(C_MSA, c_m)
        self.linear_target_i = Linear(C_TARGET, c_z)
        self.linear_target_j = Linear(C_TARGET, c_z)
        self.relative_position = RelativePosition(c_z, config)

    def forward(
        self,
        target_feat: Float[Tensor, "*b N_res 22"],
        residue_index: Int[Tensor, "*b N_res"],
        msa_feat: Float[Tensor, "*b N_clust N_res 49"],
        chains: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "*b N_clust N_res c_m"], Float[Tensor, "*b N_res N_res c_z"]]:
        """(m, z). ``chains`` as in ``RelativePosition``."""
        m = self.linear_msa_m(msa_feat) + self.linear_target_m(target_feat).unsqueeze(-3)
        z = self.linear_target_i(target_feat).unsqueeze(-2) + self.linear_target_j(target_feat).unsqueeze(-3)
        return m, z + self.relative_position(residue_index, chains)


class RecyclingEmbedder(nn.Module):
    """What the previous pass found -> updates of the first MSA row and of the pair representation (Algorithm 32)."""

    def __init__(self, c_m: int, c_z: int, config: EmbedderConfig) -> None:
        super().__init__()
        self.bins = (config.recycle_min_bin, config.recycle_max_bin, config.recycle_bins)
        self.layer_norm_m = LayerNorm(c_m)
        self.layer_norm_z = LayerNorm(c_z)
        self.linear_d = Linear(config.recycle_bins, c_z)

    def forward(self, recycled: Recycled) -> tuple[Float[Tensor, "*b N_res c_m"], Float[Tensor, "*b N_res N_res c_z"]]:
        """(update of row 0 of m, update of z)."""
        distances = distance_bins(recycled.x, *self.bins).to(recycled.z.dtype)
        return self.layer_norm_m(recycled.m_1), self.layer_norm_z(recycled.z) + self.linear_d(distances)


class ExtraMSAEmbedder(nn.Module):
    """Extra MSA residues and deletions -> the extra stack's MSA representation (Algorithm 2, line 14)."""

    def __init__(self, c_e: int) -> None:
        super().__init__()
        self.linear = Linear(EXTRA_CLASSES + 2, c_e)

    def forward(
        self,
        extra_msa: Int[Tensor, "*b N_extra N_res"],
        has_deletion: Float[Tensor, "*b N_extra N_res"],
        deletion_value: Float[Tensor, "*b N_extra N_res"],
    ) -> Float[Tensor, "*b N_extra N_res c_e"]:
        deletions = torch.stack((has_deletion, deletion_value), -1)
        return self.linear(torch.cat((one_hot(extra_msa, EXTRA_CLASSES, deletions), deletions), -1))
