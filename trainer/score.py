"""One folded chain against its experimental structure: every measure of a validation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data_store.residues import CA
from ..data_store.types import ChainRecord, Targets
from ..model.aligned_error import aligned_error
from ..model.all_atom import GroundTruth, atom37_to_atom14, make_ground_truth
from ..model.confidence import compute_pae, compute_plddt
from ..model.config import ModelConfig
from ..model.contacts import contact_precision, contact_probability
from ..model.lddt import lddt_all_atom
from ..model.losses.bonds import peptide_bonds
from ..model.losses.clashes import count_clashes
from ..model.losses.renaming import rename_ground_truth
from ..model.losses.within_residue import within_residue
from ..model.metrics import drmsd, gdt, kabsch_rmsd, lddt_ca, tm_score
from ..model.outputs import ModelOutput
from ..model.rigid import Rigid
from .calibration import Calibration, collect

PLDDT_BINS = 10  # of 10 points
PAE_BINS = 16  # of 2 Å up to 32 Å
PAE_TOP = 32.0


@dataclass(frozen=True)
class ChainScore:
    """One folded chain. ``values`` by the names of ``measures.OF_CHAIN``, NaN where one is not defined; ``plddt_pairs`` (with lDDT-Cα, both
    0..100) and ``pae_pairs`` (ångström; None without that head) are sums for the whole set; Cα ``predicted`` and ``true`` [N_res, 3],
    ``mask`` [N_res].
    """

    chain_id: str
    split: str  # "trained" or "validation"
    values: dict[str, float]
    plddt_pairs: Calibration
    pae_pairs: Calibration | None
    predicted: np.ndarray
    true: np.ndarray
    mask: np.ndarray

    @property
    def lddt(self) -> float:
        """lDDT-Cα, 0..1."""
        return self.values["lddt_ca"]

    @property
    def plddt(self) -> float:
        """Mean pLDDT, 0..100."""
        return self.values["plddt"]

    @property
    def rmsd(self) -> float:
        """Cα RMSD in ångström."""
        return self.values["rmsd_ca"]


@torch.no_grad()
def score_chain(record: ChainRecord, output: ModelOutput, config: ModelConfig, split: str) -> ChainScore:
    """Scores of ``output``, the last pass over the whole chain without a batch dimension, on the CPU."""
    aatype = torch.from_numpy(record.aatype).long()
    number = torch.from_numpy(record.residue_index).long()
    truth = _truth(record, aatype)
    predicted, true, mask = output.structure.positions[:, CA].float(), truth.positions[:, CA], truth.atom_mask[:, CA]
    lddt, test = lddt_ca(predicted, true, mask), gdt(predicted, true, mask)
    plddt = compute_plddt(output.plddt)
    values = {
        "lddt_ca": lddt.mean,
        "lddt_all": _all_atom(output, truth, aatype),
        "tm": tm_score(predicted, true, mask),
        "gdt_ts": test.ts,
        "gdt_ha": test.ha,
        "rmsd_ca": kabsch_rmsd(predicted, true, mask),
        "drmsd_ca": drmsd(predicted, true, mask),
        "plddt": plddt.mean(),
    }
    numbers = {name: float(value) for name, value in values.items()}
    if not mask.any():
        numbers = {name: value if name == "plddt" else math.nan for name, value in numbers.items()}
    known = mask > 0
    return ChainScore(
        chain_id=record.metadata.chain_id,
        split=split,
        values=numbers | _contacts(output, truth, number, config) | _violations(output, aatype, number, config),
        plddt_pairs=collect(plddt[known].numpy(), 100 * lddt.per_residue[known].numpy(), 100.0, PLDDT_BINS),
        pae_pairs=_pae(output, truth, config),
        predicted=predicted.numpy(),
        true=true.numpy(),
        mask=mask.numpy(),
    )


def _truth(record: ChainRecord, aatype: Tensor) -> GroundTruth:
    none = torch.zeros(0, len(aatype))
    positions, atom_mask = torch.from_numpy(record.positions), torch.from_numpy(record.mask.astype(np.float32))
    targets = Targets(positions, atom_mask, none.long(), none, torch.zeros(()), torch.zeros(()))
    return make_ground_truth(aatype, targets, torch.ones(len(aatype)))


def _all_atom(output: ModelOutput, truth: GroundTruth, aatype: Tensor) -> Tensor:
    atom14 = output.structure.atom14[-1].float()
    renamed = rename_ground_truth(truth, atom14)
    return lddt_all_atom(atom14, renamed.atom14_positions, renamed.atom14_mask).mean


def _contacts(output: ModelOutput, truth: GroundTruth, number: Tensor, config: ModelConfig) -> dict[str, float]:
    heads = config.heads
    probability = contact_probability(output.distogram, heads.distogram_first_break, heads.distogram_last_break)
    return {
        f"contacts_{apart}": contact_precision(probability, truth.pseudo_beta, truth.pseudo_beta_mask, number, apart) for apart in (24, 6)
    }


def _violations(output: ModelOutput, aatype: Tensor, number: Tensor, config: ModelConfig) -> dict[str, float]:
    """Shares of residues, and clashing pairs of atoms per 100 residues, with the tolerances of the violation loss."""
    factor, overlap = config.loss.violation_tolerance_factor, config.loss.clash_overlap_tolerance
    atom14, exists = atom37_to_atom14(aatype, output.structure.positions.float(), output.structure.atom_mask.float())
    bonds = peptide_bonds(atom14, exists, number, aatype, factor, factor).mask
    inner = within_residue(atom14, exists, aatype, overlap, factor).mask.amax(-1)
    clashes = count_clashes(atom14, exists, number, aatype, overlap)
    return {
        "violations": float(torch.stack([bonds, inner, clashes.residues]).amax(0).mean()),
        "bond_violations": float(bonds.mean()),
        "inner_violations": float(inner.mean()),
        "clash_violations": float(clashes.residues.mean()),
        "clashes": 100 * clashes.pairs / len(aatype),
    }


def _pae(output: ModelOutput, truth: GroundTruth, config: ModelConfig) -> Calibration | None:
    """Expected against true aligned error, the true one cut where the head's last bin lies; pairs of residues with known backbones."""
    if output.pae is None:
        return None
    expected, maximum = compute_pae(output.pae, config.heads.pae_max)
    frames = Rigid(output.structure.rotations[-1].float(), output.structure.translations[-1].float())
    true = aligned_error(frames, truth.backbone).clamp(max=float(maximum))
    known = truth.backbone_mask > 0
    return collect(expected[known][:, known].numpy(), true[known][:, known].numpy(), PAE_TOP, PAE_BINS)
