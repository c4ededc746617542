"""What the stages are made of: small modules over the network's own sub-networks, unbatched, with named tensors between them.

The blocks of a stack are pieces of one kind: they differ in their parameters only, so that a graph needs to be traced for one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data_store.types import FeatureBatch, FieldSchema
from ..errors import FoldlineError
from ..model.all_atom import pseudo_beta
from ..model.alphafold import AlphaFold
from ..model.config import ModelConfig
from ..model.outputs import Recycled
from ..model.primitives import widen
from ..model.remat import Blocks
from ..model.templates import TemplateAngleEmbedder, TemplateEmbedder, template_pair_features
from .graph import CHAIN_FIELDS, RECYCLED, border_schema

TEMPLATE_FIELDS = ("template_aatype", "template_positions", "template_atom_mask")
EXTRA_FIELDS = ("extra_msa", "extra_has_deletion", "extra_deletion_value")


@dataclass(frozen=True)
class Piece:
    """One module and the names of the tensors that it reads and makes; schemas are in ``tensor_schema``.

    Pieces of equal ``kind`` have equal code and sizes. ``trunk``: its matrix products follow the network's precision policy.
    """

    name: str
    kind: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    trunk: bool = True


def tensor_schema(config: ModelConfig) -> dict[str, FieldSchema]:
    """Name -> schema of every tensor between pieces: those between stages, and those inside them. N_seq: clusters and template rows."""
    inside: dict[str, tuple[str | int, ...]] = {
        "t": ("N_templ", "N_res", "N_res", config.template.c_t),
        "template_pair_mask": (1, "N_res", "N_res"),
        "e": ("N_extra", "N_res", config.c_e),
        "m": ("N_seq", "N_res", config.c_m),
        "m_mask": ("N_seq", "N_res"),
        "z": ("N_res", "N_res", config.c_z),
        "pair_mask": ("N_res", "N_res"),
    }
    return border_schema(config) | {name: FieldSchema("float", dims) for name, dims in inside.items()}


def stage_pieces(model: AlphaFold) -> dict[str, list[Piece]]:
    """Stage name -> its pieces in running order. They hold the network's own modules."""
    config = model.config
    chains = CHAIN_FIELDS if config.embedder.use_chain_relative else ()
    embed = _Embed(model)
    pieces = {
        "embed": [_piece("embed", embed, ("target_feat", "residue_index", *chains, "msa_feat", *RECYCLED), ("embedded_m", "embedded_z"))]
    }
    z = "embedded_z"
    if model.template_embedder is not None:
        pieces["templates"], z = _templates(model.template_embedder), "templated_z"
    pieces["extra"] = [
        _piece("extra.embedder", _Extra(model), ("seq_mask", *EXTRA_FIELDS), ("e", "pair_mask")),
        *_stack(
            "extra_msa_stack.blocks", model.extra_msa_stack.blocks, ("e", z), ("e", "z"), ("e", "extra_z"), ("extra_msa_mask", "pair_mask")
        ),
    ]
    pieces["evoformer"] = _evoformer(model)
    made = ("positions", "atom_mask", "next_x", "structure_s")
    pieces["structure"] = [_piece("structure", _Structure(model), ("s", "next_z", "aatype", "seq_mask"), made, trunk=False)]
    logits = ("plddt", "distogram", *(("pae",) if config.heads.pae_enabled else ()))
    pieces["heads"] = [_piece("heads", _Heads(model), ("next_z", "structure_s"), logits, trunk=False)]
    return pieces


def _piece(name: str, module: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...], trunk: bool = True) -> Piece:
    return Piece(name, name, module, inputs, outputs, trunk)


def _stack(
    name: str, blocks: Blocks, first: tuple[str, ...], state: tuple[str, ...], last: tuple[str, ...], context: tuple[str, ...]
) -> list[Piece]:
    """The blocks of a stack: ``first`` names the state that enters it, ``state`` what goes from block to block, ``last`` what it leaves."""
    if not blocks:
        raise FoldlineError(f"{name}: a stack without blocks cannot be exported; give it at least one")
    entering = [first, *[state] * (len(blocks) - 1)]
    leaving = [*[state] * (len(blocks) - 1), last]
    return [
        Piece(f"{name}.{i}", name, block, (*given, *context), made)
        for i, (block, given, made) in enumerate(zip(blocks, entering, leaving, strict=True))
    ]


def _templates(embedder: TemplateEmbedder) -> list[Piece]:
    pair = embedder.pair
    pieces = [
        _piece("templates.features", _TemplateFeatures(embedder), ("seq_mask", *TEMPLATE_FIELDS), ("t", "template_pair_mask")),
        *_stack(
            "template_embedder.pair.embedding.stack.blocks", pair.embedding.stack.blocks, ("t",), ("t",), ("t",), ("template_pair_mask",)
        ),
        _piece("templates.attention", _TemplateAttention(embedder), ("embedded_z", "t", "template_mask"), ("templated_z",)),
    ]
    if embedder.angles is not None:
        pieces.append(
            _piece("templates.angles", _TemplateAngles(embedder.angles), TEMPLATE_FIELDS, ("template_rows", "template_rows_mask"))
        )
    return pieces


def _evoformer(model: AlphaFold) -> list[Piece]:
    rows = model.template_embedder is not None and model.template_embedder.angles is not None
    m, mask = ("m", "m_mask") if rows else ("embedded_m", "msa_mask")
    pieces = [_piece("evoformer.pair_mask", _PairMask(), ("seq_mask",), ("pair_mask",))]
    if rows:
        given = ("embedded_m", "template_rows", "msa_mask", "template_rows_mask")
        pieces.append(_piece("evoformer.rows", _Rows(), given, (m, mask)))
    pieces += _stack("evoformer.blocks", model.evoformer.blocks, (m, "extra_z"), ("m", "z"), ("m", "next_z"), (mask, "pair_mask"))
    return [*pieces, _piece("evoformer.single", _Single(model), ("m",), ("next_m_1", "s"))]


class _Embed(nn.Module):
    """``AlphaFold.embed`` on flat tensors."""

    def __init__(self, model: AlphaFold) -> None:
        super().__init__()
        self.input_embedder, self.recycling_embedder = model.input_embedder, model.recycling_embedder

    def forward(self, target_feat: Tensor, residue_index: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        *chains, msa_feat, m_1, z_before, x = rest
        m, z = self.input_embedder(target_feat, residue_index, msa_feat, tuple(chains) or None)
        m_update, z_update = self.recycling_embedder(Recycled(m_1, z_before, x))
        is_first = (torch.arange(m.shape[-3], device=m.device) == 0).to(m_update.dtype)
        return widen(m + is_first[:, None, None] * m_update[..., None, :, :]), widen(z + z_update)


class _TemplateFeatures(nn.Module):
    """Templates -> what enters the template pair stack, and its mask."""

    def __init__(self, embedder: TemplateEmbedder) -> None:
        super().__init__()
        self.config, self.linear = embedder.pair.embedding.config, embedder.pair.embedding.linear

    def forward(self, seq_mask: Tensor, aatype: Tensor, positions: Tensor, atom_mask: Tensor) -> tuple[Tensor, Tensor]:
        features = template_pair_features(aatype, positions, atom_mask, self.config)
        return widen(self.linear(features.to(self.linear.weight.dtype))), _pair_mask(seq_mask).unsqueeze(-3)


class _TemplateAttention(nn.Module):
    """The template stack's result -> the pair representation with what templates add to it."""

    def __init__(self, embedder: TemplateEmbedder) -> None:
        super().__init__()
        self.layer_norm, self.attention = embedder.pair.embedding.layer_norm, embedder.pair.attention

    def forward(self, z: Tensor, t: Tensor, template_mask: Tensor) -> Tensor:
        return z + self.attention(z, self.layer_norm(t), template_mask)


class _TemplateAngles(nn.Module):
    """Template torsions -> further MSA rows and their mask."""

    def __init__(self, angles: TemplateAngleEmbedder) -> None:
        super().__init__()
        self.angles = angles

    def forward(self, aatype: Tensor, positions: Tensor, atom_mask: Tensor) -> tuple[Tensor, Tensor]:
        given = dict(zip(TEMPLATE_FIELDS, (aatype, positions, atom_mask), strict=True))
        # The embedder reads these three fields alone; the others stand in and leave no trace in the graph.
        rows, mask = self.angles(FeatureBatch(**{name: given.get(name, aatype) for name in FeatureBatch._fields}))
        return widen(rows), mask


class _Extra(nn.Module):
    """The extra MSA -> its representation, and the pair mask."""

    def __init__(self, model: AlphaFold) -> None:
        super().__init__()
        self.embedder = model.extra_msa_embedder

    def forward(self, seq_mask: Tensor, extra_msa: Tensor, has_deletion: Tensor, deletion_value: Tensor) -> tuple[Tensor, Tensor]:
        return widen(self.embedder(extra_msa, has_deletion, deletion_value)), _pair_mask(seq_mask)


class _PairMask(nn.Module):
    """Mask of residues -> mask of pairs."""

    def forward(self, seq_mask: Tensor) -> Tensor:
        return _pair_mask(seq_mask)


class _Rows(nn.Module):
    """MSA clusters and template rows, one below the other, and their masks."""

    def forward(self, m: Tensor, rows: Tensor, mask: Tensor, rows_mask: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat((m, rows), dim=-3), torch.cat((mask, rows_mask), dim=-2)


class _Single(nn.Module):
    """The Evoformer's MSA representation -> its first row, and the single representation."""

    def __init__(self, model: AlphaFold) -> None:
        super().__init__()
        self.linear_s = model.evoformer.linear_s

    def forward(self, m: Tensor) -> tuple[Tensor, Tensor]:
        m_1 = m[..., 0, :, :]
        return m_1, widen(self.linear_s(m_1))


class _Structure(nn.Module):
    """The structure module, and the pseudo-beta positions that the next pass starts from."""

    def __init__(self, model: AlphaFold) -> None:
        super().__init__()
        self.structure = model.structure

    def forward(self, s: Tensor, z: Tensor, aatype: Tensor, seq_mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        made = self.structure(s, z, aatype, seq_mask)
        beta, _ = pseudo_beta(aatype, made.positions, made.atom_mask)
        return made.positions, made.atom_mask, beta, made.single


class _Heads(nn.Module):
    """The heads that folding reads, as logits; the others serve training alone."""

    def __init__(self, model: AlphaFold) -> None:
        super().__init__()
        self.plddt, self.distogram, self.pae = model.heads.plddt, model.heads.distogram, model.heads.pae

    def forward(self, z: Tensor, structure_s: Tensor) -> tuple[Tensor, ...]:
        logits = (self.plddt(structure_s), self.distogram(z))
        return logits if self.pae is None else (*logits, self.pae(z))


def _pair_mask(seq_mask: Tensor) -> Tensor:
    return seq_mask[..., :, None] * seq_mask[..., None, :]
