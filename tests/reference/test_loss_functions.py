"""Each loss, metric and confidence function against DeepMind's on real structures (geometry/*.npz)."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from foldline.data_store.types import Targets
from foldline.model.all_atom import GroundTruth, make_ground_truth
from foldline.model.confidence import compute_pae, compute_plddt, compute_ptm
from foldline.model.losses.bonds import peptide_bonds
from foldline.model.losses.clashes import ATOM14_RADIUS, between_residue_clashes
from foldline.model.losses.fape import backbone_fape, sidechain_fape
from foldline.model.losses.renaming import alternative_is_better, rename_ground_truth
from foldline.model.losses.torsion import angle_norm_loss, chi_loss
from foldline.model.losses.violations import find_violations, violation_metrics
from foldline.model.losses.within_residue import distance_bounds, within_residue
from foldline.model.metrics import lddt_ca
from foldline.model.rigid import Rigid
from foldline.tests.reference.folder import REFERENCE

GEOMETRY = REFERENCE / "geometry"


def structures_with(member: str) -> list[str]:
    """The geometry files that hold ``member`` or a group of that name."""
    found = []
    for path in sorted(GEOMETRY.glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            if any(name == member or name.startswith(f"{member}/") for name in file.files):
                found.append(path.stem)
    return found


PREDICTED = structures_with("find_structural_violations")
pytestmark = pytest.mark.skipif(not GEOMETRY.is_dir(), reason=f"no reference folder at {GEOMETRY} (FOLDLINE_REFERENCE)")


def test_there_is_something_to_compare() -> None:
    assert PREDICTED


@cache
def stored(name: str) -> dict[str, Tensor]:
    with np.load(GEOMETRY / f"{name}.npz", allow_pickle=False) as file:
        tensors = {key: torch.from_numpy(file[key]) for key in file.files}
    return {key: tensor.long() if tensor.dtype == torch.int32 else tensor for key, tensor in tensors.items()}


@cache
def ground_truth(name: str) -> GroundTruth:
    z = stored(name)
    n_res, nothing = len(z["in/aatype"]), torch.zeros(())
    no_msa = torch.zeros(1, n_res)
    # Not in/*: DeepMind's training targets leave out the atoms of unknown residues, which have no name in the twenty types.
    positions, mask = z["ground_truth/all_atom_positions"], z["ground_truth/all_atom_mask"]
    targets = Targets(positions, mask, no_msa.long(), no_msa, nothing, nothing)
    return make_ground_truth(z["in/aatype"], targets, torch.ones(n_res))


def same(ours: Tensor, theirs: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=1e-5, atol=atol)


def of_frames(flat: Tensor) -> Rigid:
    return Rigid(flat[..., :9].unflatten(-1, (3, 3)), flat[..., 9:])


@pytest.mark.parametrize("name", PREDICTED)
def test_renaming_of_symmetric_atoms(name: str) -> None:
    z, truth = stored(name), ground_truth(name)
    group = "compute_renamed_ground_truth"
    arguments = (truth.atom14_positions, truth.alt_atom14_positions, truth.atom14_mask, truth.atom14_is_ambiguous)
    better = alternative_is_better(z["pred/atom14_pos"], *arguments)
    assert torch.equal(better.float(), z[f"{group}/alt_naming_is_better"])
    assert better.any(), "no group is flipped in this structure: nothing was compared"
    renamed = rename_ground_truth(truth, z["pred/atom14_pos"])
    same(renamed.atom14_positions, z[f"{group}/renamed_atom14_gt_positions"])
    same(renamed.atom14_mask, z[f"{group}/renamed_atom14_gt_exists"])


@pytest.mark.parametrize("name", PREDICTED)
def test_violations(name: str) -> None:
    z, truth = stored(name), ground_truth(name)
    predicted, index, aatype = z["pred/atom14_pos"], z["in/residue_index"], z["in/aatype"]
    found = find_violations(predicted, truth.atom14_exists, index, aatype)
    metrics = violation_metrics(found, predicted, truth.atom14_exists, index, torch.ones(len(aatype)))
    ours = {
        "between_residues/bonds_c_n_loss_mean": found.bonds.c_n,
        "between_residues/angles_ca_c_n_loss_mean": found.bonds.ca_c_n,
        "between_residues/angles_c_n_ca_loss_mean": found.bonds.c_n_ca,
        "between_residues/connections_per_residue_loss_sum": found.bonds.per_residue,
        "between_residues/connections_per_residue_violation_mask": found.bonds.mask,
        "between_residues/clashes_mean_loss": found.clashes.mean,
        "between_residues/clashes_per_atom_loss_sum": found.clashes.per_atom,
        "between_residues/clashes_per_atom_clash_mask": found.clashes.mask,
        "within_residues/per_atom_loss_sum": found.within.per_atom,
        "within_residues/per_atom_violations": found.within.mask,
        "total_per_residue_violations_mask": found.per_residue,
    }
    assert {f"find_structural_violations/{key}" for key in ours} == {key for key in z if key.startswith("find_structural_violations/")}
    for key, value in ours.items():
        same(value, z[f"find_structural_violations/{key}"])
    for key, share in metrics._asdict().items():
        same(share, z["compute_violation_metrics/violations_" + {"extreme_ca_ca": "extreme_ca_ca_distance"}.get(key, key)])


@pytest.mark.parametrize("name", PREDICTED)
def test_violations_with_other_tolerances(name: str) -> None:
    z, truth = stored(name), ground_truth(name)
    predicted, index, aatype = z["pred/atom14_pos"], z["in/residue_index"], z["in/aatype"]
    bonds = peptide_bonds(predicted, truth.atom14_exists, index, aatype, soft_tolerance=5.0, hard_tolerance=6.0)
    for value, key in zip(
        bonds, ("c_n_loss_mean", "ca_c_n_loss_mean", "c_n_ca_loss_mean", "per_residue_loss_sum", "per_residue_violation_mask"), strict=True
    ):
        same(value, z[f"between_residue_bond_loss_tol5_6/{key}"])
    same(torch.from_numpy(ATOM14_RADIUS)[aatype], z["between_residue_clash_loss/in_atom14_atom_radius"])
    clashes = between_residue_clashes(predicted, truth.atom14_exists, index, aatype, soft_tolerance=1.0, hard_tolerance=1.3)
    for value, key in zip(clashes, ("mean_loss", "per_atom_loss_sum", "per_atom_clash_mask"), strict=True):
        same(value, z[f"between_residue_clash_loss_tol1_1p3/{key}"], atol=2e-5)
    within = within_residue(predicted, truth.atom14_exists, aatype, tighten=0.1)
    for value, key in zip(within, ("per_atom_loss_sum", "per_atom_violations"), strict=True):
        same(value, z[f"within_residue_violations_tight0p1/{key}"])


@pytest.mark.parametrize("factor", [12, 15])
def test_distance_bounds(factor: int) -> None:
    z = stored("atom14_dists_bounds")
    low, high = distance_bounds(1.5, float(factor))
    same(torch.from_numpy(low), z[f"tol1.5_factor{factor}/lower_bound"])
    same(torch.from_numpy(high), z[f"tol1.5_factor{factor}/upper_bound"])


@pytest.mark.parametrize("name", PREDICTED)
def test_fape(name: str) -> None:
    z, truth = stored(name), ground_truth(name)
    frames = Rigid.from_tensor_7(z["fape_backbone/in_pred_affine"])
    same(backbone_fape(frames, truth.backbone, truth.backbone_mask), z["fape_backbone/clamp10_scale10"])
    same(backbone_fape(frames, truth.backbone, truth.backbone_mask, clamped=0.0), z["fape_backbone/unclamped_scale10"])
    atom14 = z["sidechain_loss/pred_atom14_pos"]
    renamed = rename_ground_truth(truth, atom14)
    same(sidechain_fape(of_frames(z["sidechain_loss/pred_frames_flat12"]), atom14, renamed), z["sidechain_loss/fape"])


@pytest.mark.parametrize("name", PREDICTED)
def test_torsion_losses(name: str) -> None:
    z, truth = stored(name), ground_truth(name)
    chi = chi_loss(z["supervised_chi_loss/in_angles_sin_cos"], truth.chi_sin_cos, truth.chi_mask, z["in/aatype"])
    norm = angle_norm_loss(z["supervised_chi_loss/in_unnormalized_angles_sin_cos"], torch.ones(len(z["in/aatype"])))
    same(chi, z["supervised_chi_loss/chi_loss"])
    same(norm, z["supervised_chi_loss/angle_norm_loss"])
    same(0.5 * chi + 0.01 * norm, z["supervised_chi_loss/loss"])


@pytest.mark.parametrize("name", PREDICTED)
def test_lddt(name: str) -> None:
    z = stored(name)
    score = lddt_ca(z["pred/atom14_pos"][:, 1], z["in/all_atom_positions"][:, 1], z["in/all_atom_mask"][:, 1])
    same(score.per_residue, z["lddt/per_residue_True"][0], atol=1e-6)
    same(score.mean, z["lddt/per_residue_False"][0], atol=1e-6)


@pytest.mark.parametrize("name", PREDICTED)
def test_plddt(name: str) -> None:
    z = stored(name)
    same(compute_plddt(z["compute_plddt/in_logits"]), z["compute_plddt/plddt"], atol=1e-4)


@pytest.mark.parametrize("name", structures_with("pae"))
def test_aligned_error_and_the_scores_from_it(name: str) -> None:
    z = stored(name)
    logits, maximum = z["pae/in_logits_f16"], float(z["pae/in_breaks"][-1])
    error = compute_pae(logits, maximum)
    same(error.expected, z["pae/predicted_aligned_error"])
    same(error.maximum, z["pae/max_predicted_aligned_error"])
    same(compute_ptm(logits, maximum), z["pae/ptm"])
    same(compute_ptm(logits, maximum, asym_id=z["pae/in_asym_id"]), z["pae/iptm"])


CASES = sorted(path.parent.name for path in REFERENCE.glob("model_tiny/*/outputs.npz"))


@pytest.mark.parametrize("case", CASES)
def test_confidence_of_whole_models(case: str) -> None:
    folder = REFERENCE / "model_tiny" / case
    with np.load(folder / "outputs.npz", allow_pickle=False) as file:
        z = {key: torch.from_numpy(file[key]) for key in file.files}
    heads = json.loads((folder / "config.json").read_text())["config_model"]["heads"]
    same(compute_plddt(z["predicted_lddt/logits"]), z["confidence/plddt"], atol=1e-4)
    if "confidence/ptm" in z:
        maximum = heads["predicted_aligned_error"]["max_error_bin"]
        same(compute_pae(z["predicted_aligned_error/logits"], maximum).expected, z["confidence/predicted_aligned_error"])
        same(compute_ptm(z["predicted_aligned_error/logits"], maximum), z["confidence/ptm"])
