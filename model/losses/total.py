"""The training objective: every loss, weighted and summed (AF2 supplement 1.9, equation 7)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...data_store.residues import CA
from ...data_store.types import FeatureBatch, Targets
from ..all_atom import GroundTruth, make_ground_truth
from ..config import ModelConfig
from ..outputs import Loss, ModelOutput
from ..rigid import Rigid
from .distogram import distogram_loss
from .experimentally_resolved import experimentally_resolved_loss
from .fape import backbone_fape, sidechain_fape
from .masked_msa import masked_msa_loss
from .pae import pae_loss
from .plddt import plddt_loss
from .renaming import rename_ground_truth
from .torsion import angle_norm_loss, chi_loss
from .violations import find_violations, violation_loss


class AlphaFoldLoss(nn.Module):
    """All losses of a ``ModelOutput`` against ``Targets``; weights and limits from ``ModelConfig.loss``. It has no parameters."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, output: ModelOutput, batch: FeatureBatch, targets: Targets) -> Loss:
        """Scalars: the mean over the leading batch dimensions of ``per_sample``."""
        return Loss(*(term.mean() for term in self.per_sample(output, batch, targets)))

    def per_sample(self, output: ModelOutput, batch: FeatureBatch, targets: Targets) -> Loss:
        """Each term with the leading batch dimensions [*]; ``total`` is their sum."""
        weights, heads = self.config.loss, self.config.heads
        truth = make_ground_truth(batch.aatype, targets, batch.seq_mask)
        structure = output.structure
        fape, chi = self.fape(output, truth, targets.use_clamped_fape), self.chi(output, batch, truth)
        violation = self.violation(output, batch, truth) if weights.violation_weight else torch.zeros_like(fape)
        distogram = distogram_loss(
            output.distogram, truth.pseudo_beta, truth.pseudo_beta_mask, heads.distogram_first_break, heads.distogram_last_break
        )
        trusted = self.is_trusted(targets.resolution)
        plddt = plddt_loss(output.plddt, structure.positions[..., CA, :], truth.positions[..., CA, :], truth.atom_mask[..., CA])
        resolved = experimentally_resolved_loss(output.experimentally_resolved, truth.atom_mask, truth.atom37_exists)
        terms = (
            weights.fape_weight * fape,
            weights.fape_weight * chi,
            weights.distogram_weight * distogram,
            weights.masked_msa_weight * masked_msa_loss(output.masked_msa, targets.true_msa, targets.bert_mask),
            weights.plddt_weight * trusted * plddt,
            weights.experimentally_resolved_weight * trusted * resolved,
            weights.fape_weight * weights.violation_weight * violation,
            weights.pae_weight * trusted * self.pae(output, truth),
        )
        return Loss(torch.stack(terms).sum(0), *terms)

    def fape(self, output: ModelOutput, truth: GroundTruth, use_clamped_fape: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Backbone FAPE, mean over iterations, and side-chain FAPE of the last one, mixed by ``sidechain_fraction`` (Algorithm 20)."""
        weights, structure = self.config.loss, output.structure
        iterations = structure.rotations.shape[0]
        rotations, translations, mask = (tensor.expand(iterations, *tensor.shape) for tensor in (*truth.backbone, truth.backbone_mask))
        backbone = backbone_fape(
            Rigid(structure.rotations, structure.translations),
            Rigid(rotations, translations),
            mask,
            weights.fape_clamp,
            weights.fape_unit,
            use_clamped_fape,
        ).mean(0)
        renamed = rename_ground_truth(truth, structure.atom14[-1])
        groups = Rigid(structure.frame_rotations[-1], structure.frame_translations[-1])
        sidechain = sidechain_fape(groups, structure.atom14[-1], renamed, weights.fape_clamp, weights.fape_unit)
        return (1 - weights.sidechain_fraction) * backbone + weights.sidechain_fraction * sidechain

    def chi(self, output: ModelOutput, batch: FeatureBatch, truth: GroundTruth) -> Float[Tensor, "*batch"]:
        """Torsion loss with the angle norm, both weighted (Algorithm 27)."""
        weights, structure = self.config.loss, output.structure
        chi = chi_loss(structure.angles, truth.chi_sin_cos, truth.chi_mask, batch.aatype)
        return weights.chi_weight * chi + weights.angle_norm_weight * angle_norm_loss(structure.unnormalized_angles, batch.seq_mask)

    def violation(self, output: ModelOutput, batch: FeatureBatch, truth: GroundTruth) -> Float[Tensor, "*batch"]:
        """Violations of the last iteration's atoms, not weighted (equation 47)."""
        weights = self.config.loss
        violations = find_violations(
            output.structure.atom14[-1],
            truth.atom14_exists,
            batch.residue_index,
            batch.aatype,
            weights.violation_tolerance_factor,
            weights.clash_overlap_tolerance,
        )
        return violation_loss(violations, truth.atom14_exists)

    def pae(self, output: ModelOutput, truth: GroundTruth) -> Float[Tensor, "*batch"]:
        """Predicted aligned error of the last backbone frames, not weighted; 0 where the network has no such head."""
        if output.pae is None:
            return torch.zeros_like(truth.backbone_mask[..., 0])
        frames = Rigid(output.structure.rotations[-1], output.structure.translations[-1])
        return pae_loss(output.pae, frames, truth.backbone, truth.backbone_mask, self.config.heads.pae_max)

    def is_trusted(self, resolution: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """1 where the experiment is sharp enough for the confidence losses; an unknown resolution (0) is not."""
        weights = self.config.loss
        return ((resolution >= weights.min_resolution) & (resolution <= weights.max_resolution)).to(resolution.dtype)


def scale_by_length(total: Float[Tensor, "*batch"], seq_mask: Float[Tensor, "*samples N_res"]) -> Float[Tensor, ""]:
    """Mean of ``total`` times the square root of each sample's residues (supplement 1.9).

    ``total`` is per sample, or already a mean over samples, which is exact where all of them have the same length.
    """
    return (total * seq_mask.sum(-1).sqrt()).mean()
