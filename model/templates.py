"""Templates: pair features through the template pair stack (Algorithm 16) and pointwise attention (Algorithm 17), torsions as MSA rows.

The template dimension N_templ stands before the residue dimensions everywhere; it may be 0.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..data_store.residues import ATOM_INDEX, CA
from ..data_store.types import FeatureBatch
from .all_atom import pseudo_beta, torsion_angles
from .config import TemplateConfig
from .embedders import distance_bins, one_hot
from .evoformer import PairCore
from .primitives import LayerNorm, Linear, mask_logits, widen
from .remat import Blocks
from .rigid import Rigid

TEMPLATE_CLASSES = 22  # 20 residue types, X, gap
_N, _C = ATOM_INDEX["N"], ATOM_INDEX["C"]
_PSI = 2

Pairs = Float[Tensor, "*b N_templ N_res N_res c_t"]


def template_pair_features(
    aatype: Int[Tensor, "*b N_res"],
    positions: Float[Tensor, "*b N_res 37 3"],
    atom_mask: Float[Tensor, "*b N_res 37"],
    config: TemplateConfig,
) -> Float[Tensor, "*b N_res N_res c"]:
    """Pair features of templates (supplement 1.7.1, table 1): distance bins, masks, both residue types, unit vectors.

    The vectors to the other residues' CA in each residue's frame are zeros unless ``config.use_unit_vector``: the released weights
    were trained without them. Everything is 0 for pairs in which a residue lacks backbone atoms.
    """
    beta, beta_mask = pseudo_beta(aatype, positions, atom_mask)
    backbone = atom_mask[..., _N] * atom_mask[..., CA] * atom_mask[..., _C]
    backbone_2d = _outer(backbone)
    types = one_hot(aatype, TEMPLATE_CLASSES, positions)
    tiled = (*types.shape[:-1], *types.shape[-2:])
    no_vectors = positions.new_zeros(()).expand(*tiled[:-1], 3)
    features = (
        distance_bins(beta, config.min_bin, config.max_bin, config.bins),
        _outer(beta_mask),
        types.unsqueeze(-3).expand(tiled),
        types.unsqueeze(-2).expand(tiled),
        _unit_vectors(positions) if config.use_unit_vector else no_vectors,
        backbone_2d,
    )
    return torch.cat(features, -1) * backbone_2d


def _outer(mask: Float[Tensor, "*b N"]) -> Float[Tensor, "*b N N 1"]:
    return (mask.unsqueeze(-1) * mask.unsqueeze(-2)).unsqueeze(-1)


def _unit_vectors(positions: Float[Tensor, "*b N 37 3"]) -> Float[Tensor, "*b N N 3"]:
    """Direction from residue i, in its backbone frame, to the CA of residue j."""
    frames = Rigid.from_3_points(positions[..., _N, :], positions[..., CA, :], positions[..., _C, :])
    vectors = frames.unsqueeze(-1).invert_apply(frames.translations.unsqueeze(-3))
    return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + 1e-6)


class TemplatePairStack(nn.Module):
    """Pair updates of each template by itself, attention before multiplication (Algorithm 16): (t, pair_mask) -> t."""

    def __init__(self, config: TemplateConfig) -> None:
        super().__init__()
        self.blocks = Blocks(PairCore(config.c_t, config, attention_first=True) for _ in range(config.blocks))

    def forward(self, t: Float[Tensor, "*b N_res N_res c_t"], pair_mask: Float[Tensor, "*#b N_res N_res"]) -> Tensor:
        return self.blocks.run((t,), pair_mask)[0]


class SingleTemplateEmbedding(nn.Module):
    """Features of each template -> its pair representation [*, N_res, N_res, c_t] (Algorithm 2, lines 9-11)."""

    def __init__(self, config: TemplateConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = Linear(config.bins + 1 + 2 * TEMPLATE_CLASSES + 3 + 1, config.c_t, init="relu")
        self.stack = TemplatePairStack(config)
        self.layer_norm = LayerNorm(config.c_t)

    def forward(self, aatype: Tensor, positions: Tensor, atom_mask: Tensor, pair_mask: Tensor) -> Tensor:
        """aatype [*, N_res], positions [*, N_res, 37, 3] (ångström), atom_mask [*, N_res, 37], pair_mask [*, N_res, N_res]."""
        features = template_pair_features(aatype, positions, atom_mask, self.config)
        return self.layer_norm(self.stack(self.linear(features.to(self.linear.weight.dtype)), pair_mask))


class TemplatePointwiseAttention(nn.Module):
    """Each pair of residues attends over the templates (Algorithm 17).

    With so few templates, element-wise products over a leading template dimension are faster than N_res^2 tiny matrix products.
    """

    def __init__(self, c_z: int, c_t: int, c_hidden: int, heads: int) -> None:
        super().__init__()
        self.c_hidden, self.heads = c_hidden, heads
        self.linear_q = Linear(c_z, c_hidden * heads, bias=False, init="glorot")
        self.linear_k = Linear(c_t, c_hidden * heads, bias=False, init="glorot")
        self.linear_v = Linear(c_t, c_hidden * heads, bias=False, init="glorot")
        self.linear_o = Linear(c_hidden * heads, c_z, init="final")

    def forward(
        self, z: Float[Tensor, "*b N_res N_res c_z"], t: Pairs, template_mask: Float[Tensor, "*b N_templ"]
    ) -> Float[Tensor, "*b N_res N_res c_z"]:
        """The update of ``z``; exactly 0 where no template is valid."""
        q = self._split(self.linear_q(z) * self.c_hidden**-0.5).unsqueeze(-5)
        k, v = self._split(self.linear_k(t)), self._split(self.linear_v(t))
        logits = mask_logits(widen((q * k).sum(-1)), template_mask[..., None, None, None])
        o = (torch.softmax(logits, -4).to(v.dtype).unsqueeze(-1) * v).sum(-5).flatten(-2)
        any_valid = (template_mask.sum(-1) > 0).to(o.dtype)
        return self.linear_o(o) * any_valid[..., None, None, None]

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.heads, self.c_hidden)


class TemplatePairEmbedder(nn.Module):
    """All templates -> update of the pair representation (Algorithm 2, lines 9-13)."""

    def __init__(self, c_z: int, config: TemplateConfig) -> None:
        super().__init__()
        self.embedding = SingleTemplateEmbedding(config)
        self.attention = TemplatePointwiseAttention(c_z, config.c_t, config.c_hidden_pointwise, config.heads_pointwise)

    def forward(self, z: Float[Tensor, "*b N_res N_res c_z"], batch: FeatureBatch) -> Float[Tensor, "*b N_res N_res c_z"]:
        """The update of ``z`` [*, N_res, N_res, c_z]."""
        pair_mask = (batch.seq_mask.unsqueeze(-1) * batch.seq_mask.unsqueeze(-2)).unsqueeze(-3)
        t = self.embedding(batch.template_aatype, batch.template_positions, batch.template_atom_mask, pair_mask)
        return self.attention(z, t, batch.template_mask)


class TemplateAngleEmbedder(nn.Module):
    """Template torsions -> further MSA rows and their masks (Algorithm 2, lines 7-8).

    Rows [*, N_templ, N_res, c_m]; the mask [*, N_templ, N_res] is that of psi, as in the released implementation.
    """

    def __init__(self, c_m: int) -> None:
        super().__init__()
        self.linear_1 = Linear(TEMPLATE_CLASSES + 14 + 14 + 7, c_m, init="relu")
        self.linear_2 = Linear(c_m, c_m, init="relu")

    def forward(self, batch: FeatureBatch) -> tuple[Float[Tensor, "*b N_templ N_res c_m"], Float[Tensor, "*b N_templ N_res"]]:
        angles = torsion_angles(batch.template_aatype, batch.template_positions, batch.template_atom_mask)
        types = one_hot(batch.template_aatype, TEMPLATE_CLASSES, angles.mask)
        features = torch.cat((types, angles.sin_cos.flatten(-2), angles.alt_sin_cos.flatten(-2), angles.mask), -1)
        features = features.to(self.linear_1.weight.dtype)
        return self.linear_2(torch.relu(self.linear_1(features))), angles.mask[..., _PSI]


class TemplateEmbedder(nn.Module):
    """Everything that templates add: ``pair(z, batch)`` the update of z, ``angles(batch)`` the MSA rows and their masks.

    ``angles`` is None where ``config.embed_torsion_angles`` is off.
    """

    def __init__(self, c_z: int, c_m: int, config: TemplateConfig) -> None:
        super().__init__()
        self.pair = TemplatePairEmbedder(c_z, config)
        self.angles = TemplateAngleEmbedder(c_m) if config.embed_torsion_angles else None
