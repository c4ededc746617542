"""The training objective on DeepMind's own outputs (model_tiny/*/outputs.npz) against the losses DeepMind computed from them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from foldline.data_store.residues import CA
from foldline.model.all_atom import make_ground_truth
from foldline.model.config import ModelConfig
from foldline.model.losses.pae import pae_loss
from foldline.model.losses.total import AlphaFoldLoss
from foldline.model.losses.violations import find_violations, violation_metrics
from foldline.model.outputs import Loss, ModelOutput, Recycled, StructureOutput
from foldline.model.rigid import Rigid
from foldline.tests.reference.model_cases import CASES, REFERENCE, arrays, cycles, has, model_config, settings, targets

STORED = [case for case in CASES if has(case, "losses") and has(case, "outputs")]
VARIANTS = [(case, name) for case in STORED for name in sorted({key.split("/")[0] for key in arrays(case, "losses")} - {"extra"})]
pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference folder at {REFERENCE} (FOLDLINE_REFERENCE)")


def test_there_is_something_to_compare() -> None:
    assert VARIANTS


def stored_output(case: str) -> ModelOutput:
    """DeepMind's head outputs as a ``ModelOutput``; representations, which no loss reads, are left out where they are not stored."""
    raw = {name: torch.from_numpy(array) for name, array in arrays(case, "outputs").items()}
    backbone = Rigid.from_tensor_7(raw["structure_module/traj"])
    frames = raw["structure_module/sidechains/frames"]
    structure = StructureOutput(
        rotations=backbone.rotations,
        translations=backbone.translations,
        angles=raw["structure_module/sidechains/angles_sin_cos"],
        unnormalized_angles=raw["structure_module/sidechains/unnormalized_angles_sin_cos"],
        frame_rotations=frames[..., :9].unflatten(-1, (3, 3)),
        frame_translations=frames[..., 9:],
        atom14=raw["structure_module/sidechains/atom_pos"],
        positions=raw["structure_module/final_atom_positions"],
        atom_mask=raw["structure_module/final_atom_mask"],
        single=raw["representations/structure_module"],
    )
    unused = torch.zeros(0)
    return ModelOutput(
        m=raw["representations/msa"],
        z=raw["representations/pair"],
        s=raw["representations/single"],
        structure=structure,
        distogram=raw["distogram/logits"],
        masked_msa=raw["masked_msa/logits"],
        experimentally_resolved=raw["experimentally_resolved/logits"],
        plddt=raw["predicted_lddt/logits"],
        pae=raw.get("predicted_aligned_error/logits"),
        recycled=Recycled(unused, unused, unused),
    )


def variant_inputs(case: str, variant: str) -> tuple[ModelConfig, float, float | None]:
    """(config, use_clamped_fape, resolution) that a stored variant stands for."""
    config, clamped, resolution = model_config(settings(case)["config_model"]), 1.0, None
    if variant == "no_violation_loss":
        config = replace(config, loss=replace(config.loss, violation_weight=0.0))
    elif variant.startswith("use_clamped_fape_"):
        clamped = float(variant.removeprefix("use_clamped_fape_").replace("p", "."))
    elif variant.startswith("resolution_"):
        resolution = float(variant.removeprefix("resolution_").replace("p", "."))
    elif variant != "default":
        pytest.fail(f"unknown variant {variant} of {case}: this test does not know what it changes")
    return config, clamped, resolution


@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_every_head_and_the_total_agree(case: str, variant: str) -> None:
    config, clamped, resolution = variant_inputs(case, variant)
    truth = targets(case, use_clamped_fape=clamped)
    if resolution is not None:
        truth = truth._replace(resolution=torch.tensor(resolution))
    if variant != "default":  # with an ensemble these were computed against the last member's MSA, though the logits are the first's
        batch = arrays(case, "batch")
        msa, mask = torch.from_numpy(batch["true_msa"][-1]), torch.from_numpy(batch["bert_mask"][-1])
        truth = truth._replace(true_msa=msa.long(), bert_mask=mask)
    ours = AlphaFoldLoss(config)(stored_output(case), cycles(case)[-1][0], truth)
    stored = {name: float(v) for name, v in arrays(case, "losses").items() if name.startswith(f"{variant}/") and v.ndim == 0}
    expected = {name.removeprefix(f"{variant}/"): value for name, value in stored.items()}
    compare(ours, expected, config)


def compare(ours: Loss, expected: dict[str, float], config: ModelConfig) -> None:
    weights = config.loss
    terms = {
        "structure_module": ours.fape + ours.chi + ours.violation,
        "distogram": ours.distogram,
        "masked_msa": ours.masked_msa,
        "predicted_lddt": ours.plddt,
        "experimentally_resolved": ours.experimentally_resolved,
        "predicted_aligned_error": ours.pae,
    }
    factors = {
        "structure_module": weights.fape_weight,
        "distogram": weights.distogram_weight,
        "masked_msa": weights.masked_msa_weight,
        "predicted_lddt": weights.plddt_weight,
        "experimentally_resolved": weights.experimentally_resolved_weight,
        "predicted_aligned_error": weights.pae_weight,
    }
    for head, term in terms.items():
        assert float(term) == pytest.approx(factors[head] * expected.get(f"{head}/loss", 0.0), rel=2e-5, abs=1e-6), head
    chi = weights.chi_weight * expected["structure_module/chi_loss"]
    chi += weights.angle_norm_weight * expected["structure_module/angle_norm_loss"]
    assert float(ours.chi) == pytest.approx(weights.fape_weight * chi, rel=1e-5)
    assert float(ours.total) == pytest.approx(expected["total_loss"], rel=2e-5)


@pytest.mark.parametrize("case", STORED)
def test_fape_splits_into_backbone_and_side_chain(case: str) -> None:
    """DeepMind stores the backbone FAPE of the last iteration alone and the side-chain FAPE."""
    config, _, _ = variant_inputs(case, "default")
    output, batch, truth = stored_output(case), cycles(case)[-1][0], targets(case)
    last = output._replace(structure=StructureOutput(*(_last(field) for field in output.structure[:7]), *output.structure[7:]))
    ground = make_ground_truth(batch.aatype, truth, batch.seq_mask)
    for fraction, name in ((0.0, "fape"), (1.0, "sidechain_fape")):
        loss = AlphaFoldLoss(replace(config, loss=replace(config.loss, sidechain_fraction=fraction)))
        value = loss.fape(last, ground, truth.use_clamped_fape)
        assert float(value) == pytest.approx(float(arrays(case, "losses")[f"default/structure_module/{name}"]), rel=1e-5)


def _last(field: Tensor) -> Tensor:
    return field[-1:]


@pytest.mark.parametrize("case", STORED)
def test_violations_and_their_metrics_agree(case: str) -> None:
    batch, truth = cycles(case)[-1][0], targets(case)
    exists = make_ground_truth(batch.aatype, truth, batch.seq_mask).atom14_exists
    atom14 = stored_output(case).structure.atom14[-1]
    found = find_violations(atom14, exists, batch.residue_index, batch.aatype)
    metrics = violation_metrics(found, atom14, exists, batch.residue_index, batch.seq_mask)
    between, within, shares = "violations/between_residues", "violations/within_residues", "metrics/violations"
    ours = {
        f"{between}/bonds_c_n_loss_mean": found.bonds.c_n,
        f"{between}/angles_ca_c_n_loss_mean": found.bonds.ca_c_n,
        f"{between}/angles_c_n_ca_loss_mean": found.bonds.c_n_ca,
        f"{between}/connections_per_residue_loss_sum": found.bonds.per_residue,
        f"{between}/connections_per_residue_violation_mask": found.bonds.mask,
        f"{between}/clashes_mean_loss": found.clashes.mean,
        f"{between}/clashes_per_atom_loss_sum": found.clashes.per_atom,
        f"{between}/clashes_per_atom_clash_mask": found.clashes.mask,
        f"{within}/per_atom_loss_sum": found.within.per_atom,
        f"{within}/per_atom_violations": found.within.mask,
        "violations/total_per_residue_violations_mask": found.per_residue,
        f"{shares}_extreme_ca_ca_distance": metrics.extreme_ca_ca,
        f"{shares}_between_residue_bond": metrics.between_residue_bond,
        f"{shares}_between_residue_clash": metrics.between_residue_clash,
        f"{shares}_within_residue": metrics.within_residue,
        f"{shares}_per_residue": metrics.per_residue,
    }
    for name, value in ours.items():
        expected = torch.from_numpy(arrays(case, "losses")[f"default/structure_module/{name}"])
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=2e-4 if "clashes_per_atom_loss" in name else 2e-5, msg=name)


@pytest.mark.parametrize("case", [case for case in STORED if "extra/pae_loss_diag_bin1" in arrays(case, "losses")])
def test_the_pae_diagonal_lies_in_the_first_bin(case: str) -> None:
    output, batch, truth = stored_output(case), cycles(case)[-1][0], targets(case)
    ground = make_ground_truth(batch.aatype, truth, batch.seq_mask)
    frames = Rigid(output.structure.rotations[-1], output.structure.translations[-1])
    maximum = model_config(settings(case)["config_model"]).heads.pae_max
    assert output.pae is not None
    value = float(pae_loss(output.pae, frames, ground.backbone, ground.backbone_mask, maximum))
    first, second = (float(arrays(case, "losses")[f"extra/pae_loss_diag_bin{i}"]) for i in (0, 1))
    assert value == pytest.approx(first, rel=1e-5)
    assert value != pytest.approx(second, rel=1e-4)


@pytest.mark.parametrize("case", STORED)
def test_no_gradient_reaches_the_structure_through_the_confidence_heads(case: str) -> None:
    config, _, _ = variant_inputs(case, "default")
    output = stored_output(case)
    leaves = {name: field.clone().requires_grad_() for name, field in output.structure._asdict().items()}
    logits = {name: getattr(output, name).clone().requires_grad_() for name in ("plddt", "pae") if getattr(output, name) is not None}
    loss = AlphaFoldLoss(config)(output._replace(structure=StructureOutput(**leaves), **logits), cycles(case)[-1][0], targets(case))
    confidence = loss.plddt + loss.pae + loss.experimentally_resolved
    gradients = torch.autograd.grad(confidence, [*leaves.values(), *logits.values()], retain_graph=True, allow_unused=True)
    assert all(gradient is None or not gradient.any() for gradient in gradients[: len(leaves)])
    assert all(gradient is not None and gradient.any() for gradient in gradients[len(leaves) :])
    structural = torch.autograd.grad(loss.fape + loss.violation, [leaves["rotations"], leaves["translations"], leaves["atom14"]])
    assert all(gradient.isfinite().all() and gradient.any() for gradient in structural)
    assert leaves["positions"][..., CA, :].requires_grad, "the pLDDT target was computed from positions that could carry a gradient"
