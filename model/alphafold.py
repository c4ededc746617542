"""AlphaFold2, one pass of the network and the recycling loop around it (AF2 supplement, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..data_store.types import FeatureBatch
from .all_atom import pseudo_beta
from .config import ModelConfig
from .embedders import ExtraMSAEmbedder, InputEmbedder, RecyclingEmbedder
from .evoformer import EvoformerStack, ExtraMSAStack
from .heads import Heads
from .outputs import ModelOutput, Recycled
from .structure import StructureModule
from .templates import TemplateEmbedder


class Representations(NamedTuple):
    """What the trunk makes of the features: ``m`` [*, N_clust, N_res, c_m] (cluster rows only), its first row ``m_1``, ``z``, ``s``."""

    m: Tensor
    m_1: Tensor
    z: Tensor
    s: Tensor


class AlphaFold(nn.Module):
    """The network. Each call is one pass; ``run_cycles`` repeats it."""

    trunk_dtype: torch.dtype | None = None  # of the trunk's matrix products; None: as the caller runs the network

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c_m, c_z, c_s, c_e = config.c_m, config.c_z, config.c_s, config.c_e
        self.config = config
        self.input_embedder = InputEmbedder(c_m, c_z, config.embedder)
        self.recycling_embedder = RecyclingEmbedder(c_m, c_z, config.embedder)
        self.template_embedder = TemplateEmbedder(c_z, c_m, config.template) if config.template.enabled else None
        self.extra_msa_embedder = ExtraMSAEmbedder(c_e)
        self.extra_msa_stack = ExtraMSAStack(c_e, c_z, config.extra_msa)
        self.evoformer = EvoformerStack(c_m, c_z, c_s, config.evoformer)
        self.structure = StructureModule(c_s, c_z, config.structure)
        self.heads = Heads(c_m, c_z, c_s, config.heads)

    def forward(self, batch: FeatureBatch, recycled: Recycled) -> ModelOutput:
        """One pass: features and what the pass before left -> structure and logits; ``recycled`` of the output feeds the next."""
        return self.read_out(batch, self.represent(batch, recycled))

    def represent(self, batch: FeatureBatch, recycled: Recycled) -> Representations:
        """The trunk: embedders, templates, extra-MSA stack, Evoformer (Algorithm 2, lines 1-18)."""
        if self.trunk_dtype is None:
            return self._represent(batch, recycled)
        with torch.autocast(batch.target_feat.device.type, dtype=self.trunk_dtype):
            return self._represent(batch, recycled)

    def _represent(self, batch: FeatureBatch, recycled: Recycled) -> Representations:
        pair_mask = batch.seq_mask[..., :, None] * batch.seq_mask[..., None, :]
        m, z = self.embed(batch, recycled)
        msa_mask = batch.msa_mask
        if self.template_embedder is not None:
            z = z + self.template_embedder.pair(z, batch)
        e = self.extra_msa_embedder(batch.extra_msa, batch.extra_has_deletion, batch.extra_deletion_value)
        z = self.extra_msa_stack(e, z, batch.extra_msa_mask, pair_mask)
        if self.template_embedder is not None and self.template_embedder.angles is not None:
            rows, rows_mask = self.template_embedder.angles(batch)
            m, msa_mask = torch.cat((m, rows), dim=-3), torch.cat((msa_mask, rows_mask), dim=-2)
        m, z, s = self.evoformer(m, z, msa_mask, pair_mask)
        m = m[..., : batch.msa_feat.shape[-3], :, :]
        return Representations(m, m[..., 0, :, :], z, s)

    def embed(self, batch: FeatureBatch, recycled: Recycled) -> tuple[Tensor, Tensor]:
        """Features and the last pass's results -> first ``m`` [*, N_clust, N_res, c_m] and ``z`` [*, N_res, N_res, c_z]."""
        chains = (batch.asym_id, batch.entity_id, batch.sym_id)
        m, z = self.input_embedder(batch.target_feat, batch.residue_index, batch.msa_feat, chains)
        m_update, z_update = self.recycling_embedder(recycled)
        # A mask, not m[..., 1:, :, :]: a slice would need at least three rows in an exported graph.
        is_first = (torch.arange(m.shape[-3], device=m.device) == 0).to(m.dtype)
        return m + is_first[:, None, None] * m_update[..., None, :, :], z + z_update

    def read_out(self, batch: FeatureBatch, representations: Representations) -> ModelOutput:
        """Structure module and heads (Algorithm 2, lines 19-23)."""
        m, m_1, z, s = representations
        structure = self.structure(s, z, batch.aatype, batch.seq_mask)
        logits = self.heads(m, z, s, structure.single)
        beta, _ = pseudo_beta(batch.aatype, structure.positions, structure.atom_mask)
        return ModelOutput(
            m=m,
            z=z,
            s=s,
            structure=structure,
            distogram=logits.distogram,
            masked_msa=logits.masked_msa,
            experimentally_resolved=logits.experimentally_resolved,
            plddt=logits.plddt,
            pae=logits.pae,
            recycled=Recycled(m_1.detach(), z.detach(), beta.detach()),
        )

    def initial_recycled(self, batch: FeatureBatch) -> Recycled:
        """What the first pass starts from: zeros of the batch's sizes."""
        zeros = batch.target_feat.new_zeros
        shape = tuple(batch.aatype.shape)
        return Recycled(zeros((*shape, self.config.c_m)), zeros((*shape, shape[-1], self.config.c_z)), zeros((*shape, 3)))


def run_cycles(model: AlphaFold, cycles: Sequence[FeatureBatch]) -> ModelOutput:
    """One pass per feature set, each fed by the one before; only the last is differentiated (Algorithm 31)."""
    recycled = model.initial_recycled(cycles[0])
    for batch in cycles[:-1]:
        with torch.no_grad():
            recycled = model(batch, recycled).recycled
    if len(cycles) > 1 and torch.is_autocast_enabled(cycles[0].target_feat.device.type):
        torch.clear_autocast_cache()  # older torch reuses casts made under no_grad, which would cut parameters from the last pass's graph
    return model(cycles[-1], recycled)


def run_ensemble(model: AlphaFold, cycles: Sequence[Sequence[FeatureBatch]]) -> ModelOutput:
    """Recycling with several feature sets per cycle (Algorithm 2, lines 4-18): m_1, z and s are averaged, ``m`` is the first's.

    The structure module and the heads run once per cycle, on the averages. For prediction: no gradient is kept.
    """
    recycled = model.initial_recycled(cycles[0][0])
    with torch.no_grad():
        for members in cycles:
            each = [model.represent(batch, recycled) for batch in members]
            m_1, z, s = (torch.stack(tensors).mean(0) for tensors in list(zip(*each, strict=True))[1:])
            output = model.read_out(members[0], Representations(each[0].m, m_1, z, s))
            recycled = output.recycled
    return output
