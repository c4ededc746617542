"""Geometry against DeepMind's, on real structures (geometry/*.npz): torsions, rigid groups, atom layouts, ground truth, frames to atoms."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from foldline.data_store.types import Targets
from foldline.model import tables
from foldline.model.all_atom import GroundTruth, atom14_to_atom37, atom37_to_atom14, make_ground_truth, pseudo_beta, torsion_angles
from foldline.model.frames import atom37_to_frames, frames_to_atom14, torsion_angles_to_frames
from foldline.model.rigid import Rigid, quaternion_to_rotation
from foldline.tests.reference.model_cases import REFERENCE

FOLDER = REFERENCE / "geometry"
Arrays = dict[str, Tensor]


@cache
def arrays(name: str) -> Arrays:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def names(member: str) -> list[str]:
    """The files that hold ``member``."""
    return [path.stem for path in sorted(FOLDER.glob("*.npz")) if member in np.load(path).files]


STRUCTURES = names("in/aatype")
NO_FOLDER = pytest.mark.skipif(not FOLDER.exists(), reason=f"no reference folder {FOLDER}")
each_structure = pytest.mark.parametrize("name", STRUCTURES)


def inputs(name: str) -> tuple[Tensor, Tensor, Tensor]:
    a = arrays(name)
    return a["in/aatype"].long(), a["in/all_atom_positions"], a["in/all_atom_mask"]


def close(ours: Tensor, theirs: Tensor, mask: Tensor | None = None, tolerance: float = 1e-5) -> None:
    """Within ``tolerance`` x max(1, |x|), where ``mask`` (over the leading dimensions) is 1."""
    theirs = theirs.to(ours.dtype)
    assert ours.shape == theirs.shape
    error = (ours - theirs).abs() / theirs.abs().clamp(min=1.0)
    if mask is not None:
        assert float(mask.sum()) > 0, "nothing to compare"
        error = error[mask.bool()]
    assert float(error.max()) <= tolerance, f"error {float(error.max()):.1e}"


def flat12(rigid: Rigid) -> Tensor:
    return torch.cat((rigid.rotations.flatten(-2), rigid.translations), -1)


@NO_FOLDER
def test_structures_were_found() -> None:
    assert STRUCTURES


@each_structure
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torsions(name: str, dtype: torch.dtype) -> None:
    aatype, positions, mask = inputs(name)
    ours = torsion_angles(aatype, positions.to(dtype), mask.to(dtype))
    for variant in ("atom37_to_torsion_angles_placeholder0", "atom37_to_torsion_angles_placeholder1"):
        theirs = {key.removeprefix(f"{variant}/"): value for key, value in arrays(name).items() if key.startswith(variant)}
        assert torch.equal(ours.mask.float(), theirs["torsion_angles_mask"])
        close(ours.sin_cos, theirs["torsion_angles_sin_cos"], ours.mask)
        close(ours.alt_sin_cos, theirs["alt_torsion_angles_sin_cos"], ours.mask)


@each_structure
def test_undefined_torsions_have_the_same_rounding(name: str) -> None:
    """Templates are embedded with them: where atoms are collinear (missing, at 0) they are rounding errors, equal only if every step is."""
    a, ours = arrays(name), torsion_angles(*inputs(name))
    close(ours.sin_cos, a["atom37_to_torsion_angles_placeholder0/torsion_angles_sin_cos"])
    close(ours.alt_sin_cos, a["atom37_to_torsion_angles_placeholder0/alt_torsion_angles_sin_cos"])


@each_structure
def test_rigid_groups(name: str) -> None:
    aatype, positions, mask = inputs(name)
    ours = atom37_to_frames(aatype, positions, mask)
    theirs = {key.removeprefix("atom37_to_frames/"): value for key, value in arrays(name).items() if key.startswith("atom37_to_frames/")}
    assert torch.equal(ours.mask, theirs["rigidgroups_gt_exists"])
    assert torch.equal(tables.GROUP_EXISTS(aatype), theirs["rigidgroups_group_exists"])
    assert torch.equal((tables.GROUP_FLIPS(aatype) < 0).float(), theirs["rigidgroups_group_is_ambiguous"])
    close(flat12(ours.frames), theirs["rigidgroups_gt_frames"], ours.mask)
    close(flat12(ours.alt_frames), theirs["rigidgroups_alt_gt_frames"], ours.mask)


@each_structure
def test_atom_layouts(name: str) -> None:
    aatype, positions, mask = inputs(name)
    a = arrays(name)
    atom14, mask14 = atom37_to_atom14(aatype, positions, mask)
    close(atom14, a["atom37_to_atom14/positions"] * a["atom37_to_atom14/mask"].unsqueeze(-1))
    close(mask14, a["atom37_to_atom14/mask"])
    atom37, exists = atom14_to_atom37(aatype, atom14)
    close(atom37 * mask.unsqueeze(-1), a["atom14_to_atom37/positions"] * a["atom14_to_atom37/mask"].unsqueeze(-1))
    close(exists, a["make_atom14_masks/atom37_atom_exists"])
    beta, beta_mask = pseudo_beta(aatype, positions, mask)
    close(beta, a["pseudo_beta_fn/pseudo_beta"])
    close(beta_mask, a["pseudo_beta_fn/pseudo_beta_mask"])


@pytest.mark.parametrize("name", names("residx_atom14_to_atom37"))
def test_atom_tables(name: str) -> None:
    a = arrays(name)
    aatype = a["aatype"].long()
    assert torch.equal(tables.ATOM14_TO_ATOM37(aatype), a["residx_atom14_to_atom37"].long())
    assert torch.equal(tables.ATOM37_TO_ATOM14(aatype), a["residx_atom37_to_atom14"].long())
    assert torch.equal(tables.ATOM14_EXISTS(aatype), a["atom14_atom_exists"])
    assert torch.equal(tables.ATOM37_EXISTS(aatype), a["atom37_atom_exists"])


@each_structure
def test_backbone_frames(name: str) -> None:
    _, positions, mask = inputs(name)
    a = arrays(name)
    frames = Rigid.from_3_points(*positions[:, :3].unbind(1))
    known = mask[:, :3].prod(-1)
    close(frames.rotations, a["make_transform_from_reference/rot"], known)
    close(frames.translations, a["make_transform_from_reference/trans"], known)


@each_structure
def test_ground_truth(name: str) -> None:
    aatype, positions, mask = inputs(name)
    none = torch.zeros(0, len(aatype))
    targets = Targets(positions, mask, none.long(), none, torch.tensor(1.0), torch.tensor(1.0))
    ours = make_ground_truth(aatype, targets, torch.ones(len(aatype)))
    theirs = {key.removeprefix("ground_truth/"): value for key, value in arrays(name).items() if key.startswith("ground_truth/")}
    for key, read in _GROUND_TRUTH.items():
        value, shown = read(ours)
        close(value, theirs[key], shown)
    backbone = Rigid.from_tensor_7(theirs["backbone_affine_tensor"])
    close(flat12(ours.backbone), flat12(backbone), ours.backbone_mask)
    chi = torch.stack((theirs["chi_angles"].sin(), theirs["chi_angles"].cos()), -1)
    close(ours.chi_sin_cos, chi, ours.chi_mask)


_GROUND_TRUTH: dict[str, Callable[[GroundTruth], tuple[Tensor, Tensor | None]]] = {
    "all_atom_positions": lambda g: (g.positions, g.atom_mask),
    "all_atom_mask": lambda g: (g.atom_mask, None),
    "atom37_atom_exists": lambda g: (g.atom37_exists, None),
    "atom14_atom_exists": lambda g: (g.atom14_exists, None),
    "atom14_gt_positions": lambda g: (g.atom14_positions, None),
    "atom14_gt_exists": lambda g: (g.atom14_mask, None),
    "atom14_alt_gt_positions": lambda g: (g.alt_atom14_positions, None),
    "atom14_alt_gt_exists": lambda g: (g.alt_atom14_mask, None),
    "atom14_atom_is_ambiguous": lambda g: (g.atom14_is_ambiguous, None),
    "rigidgroups_gt_frames": lambda g: (flat12(g.frames), g.frames_mask),
    "rigidgroups_alt_gt_frames": lambda g: (flat12(g.alt_frames), g.frames_mask),
    "rigidgroups_gt_exists": lambda g: (g.frames_mask, None),
    "backbone_affine_mask": lambda g: (g.backbone_mask, None),
    "chi_mask": lambda g: (g.chi_mask, None),
    "pseudo_beta": lambda g: (g.pseudo_beta, g.pseudo_beta_mask),
    "pseudo_beta_mask": lambda g: (g.pseudo_beta_mask, None),
}


@each_structure
@pytest.mark.parametrize("variant", ["torsion_angles_to_frames_random", "torsion_angles_to_frames_native"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torsions_to_atoms(name: str, variant: str, dtype: torch.dtype) -> None:
    a, (aatype, _, _) = arrays(name), inputs(name)
    backbone = Rigid.from_tensor_7(a[f"{variant}/in_affine"].to(dtype))
    frames = torsion_angles_to_frames(aatype, backbone, a[f"{variant}/in_angles_sin_cos"].to(dtype))
    close(flat12(frames), a[f"{variant}/frames_flat12"])
    close(frames_to_atom14(aatype, frames), a[f"{variant}/atom14_pos"])


@pytest.mark.parametrize("name", names("in/quaternion"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rigid_motions(name: str, dtype: torch.dtype) -> None:
    a = {key: value.to(dtype) for key, value in arrays(name).items()}
    rotations = quaternion_to_rotation(a["in/quaternion"])
    # theirs does not normalise
    square = a["in/quaternion"].square().sum(-1)[:, None, None]
    close(rotations * square, a["quat_to_rot"].movedim(-1, 0))
    rigid = Rigid(rotations, a["in/translation"])
    points = a["in/points"]
    close(rigid.unsqueeze(-1).apply(points), a["apply_to_point"])
    close(rigid.unsqueeze(-1).invert_apply(points), a["invert_point"])
    close(rigid.unsqueeze(-1).invert().apply(points), a["invert_point"])
    updated = rigid.compose_update(a["in/update6"])
    close(updated.rotations, a["pre_compose/rotation"])
    close(flat12(updated), flat12(Rigid.from_tensor_7(a["pre_compose/affine7"])))
    first, origin, second = a["in/three_points"].unbind(1)
    axes = Rigid.from_axes(origin - first, second - origin, origin)
    close(flat12(axes), a["rigids_from_3_points(neg_x_axis,origin,xy_plane)/flat12"])
    algorithm_21 = Rigid.from_3_points(first, origin, second)
    close(algorithm_21.rotations, a["make_transform_from_reference(n,ca,c)/rot"])
    close(algorithm_21.translations, a["make_transform_from_reference(n,ca,c)/trans"])
