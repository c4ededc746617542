"""Laws of rigid motions, rigid groups, torsions and ground truth: no reference, only what must hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from foldline.data_store import residues
from foldline.data_store.types import Targets
from foldline.model import tables
from foldline.model.all_atom import atom14_to_atom37, make_ground_truth, torsion_angles
from foldline.model.frames import atom37_to_frames, frames_to_atom14, torsion_angles_to_frames
from foldline.model.rigid import Rigid, quaternion_to_rotation, rounded_sqrt
from foldline.model.structure import torsions_of

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}
both_types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rigid(*shape: int, dtype: torch.dtype, spread: float = 3.0, seed: int = 2) -> Rigid:
    g = generator(seed)
    quaternion = torch.randn(*shape, 4, generator=g, dtype=torch.float64)
    translation = torch.randn(*shape, 3, generator=g, dtype=torch.float64) * spread
    return Rigid(quaternion_to_rotation(quaternion).to(dtype), translation.to(dtype))


def all_types(n: int) -> Tensor:
    return torch.arange(n) % 21


@both_types
def test_rigid_motions_form_a_group(dtype: torch.dtype) -> None:
    a, b, c = (random_rigid(5, dtype=dtype, seed=seed) for seed in (1, 2, 3))
    points = torch.randn(5, 3, generator=generator(), dtype=dtype)
    for one, other in (
        (a.compose(b).compose(c), a.compose(b.compose(c))),
        (a.compose(a.invert()), Rigid.identity((5,), dtype, a.rotations.device)),
    ):
        torch.testing.assert_close(one.rotations, other.rotations, atol=TOLERANCE[dtype], rtol=0)
        torch.testing.assert_close(one.translations, other.translations, atol=TOLERANCE[dtype], rtol=0)
    torch.testing.assert_close(a.compose(b).apply(points), a.apply(b.apply(points)), atol=TOLERANCE[dtype], rtol=0)
    torch.testing.assert_close(a.invert_apply(a.apply(points)), points, atol=TOLERANCE[dtype], rtol=0)
    torch.testing.assert_close(a.compose_update(torch.zeros(5, 6, dtype=dtype)), a, atol=1e-6, rtol=0)


@both_types
def test_frames_of_three_points_are_right_handed_and_move_with_them(dtype: torch.dtype) -> None:
    points = torch.randn(7, 3, 3, generator=generator(), dtype=dtype) * 3
    motion = random_rigid(7, dtype=dtype, spread=20.0)
    frames = Rigid.from_3_points(*points.unbind(1))
    torch.testing.assert_close(torch.linalg.det(frames.rotations.double()), torch.ones(7, dtype=torch.float64), atol=1e-5, rtol=0)
    local = frames.unsqueeze(-1).invert_apply(points)
    assert float(local[:, 2, 1:].abs().max()) < 1e-5, "the third point lies on the x axis"
    assert float(local[:, 0, 2].abs().max()) < 1e-5, "the first point lies in the xy plane"
    assert bool((local[:, 0, 1] > 0).all() and (local[:, 2, 0] > 0).all())
    moved = Rigid.from_3_points(*motion.unsqueeze(-1).apply(points).unbind(1))
    torch.testing.assert_close(moved, motion.compose(frames), atol=1e-4 if dtype == torch.float32 else 1e-9, rtol=0)


@both_types
def test_square_roots_are_rounded_to_nearest(dtype: torch.dtype) -> None:
    x = torch.rand(20000, generator=generator(), dtype=dtype) * 100 + 1e-8
    assert torch.equal(rounded_sqrt(x), torch.from_numpy(x.numpy() ** x.numpy().dtype.type(0.5)))


def test_coinciding_points_give_no_nan() -> None:
    nowhere = torch.zeros(4, 3, requires_grad=True)
    frames = Rigid.from_3_points(nowhere, nowhere, nowhere)
    frames.rotations.sum().backward()
    assert nowhere.grad is not None
    assert all(bool(torch.isfinite(x).all()) for x in (frames.rotations, nowhere.grad))


def random_atoms(dtype: torch.dtype) -> tuple[Tensor, Rigid, Tensor, Rigid, Tensor]:
    """Two of every residue type in ideal geometry: types, backbones, torsions, rigid groups, atom14."""
    aatype = all_types(42)
    backbone = random_rigid(42, dtype=dtype, spread=10.0)
    angles = torsions_of(torch.randn(42, 7, 2, generator=generator(6), dtype=dtype))
    frames = torsion_angles_to_frames(aatype, backbone, angles)
    return aatype, backbone, angles, frames, frames_to_atom14(aatype, frames)


@both_types
def test_frames_to_atoms_to_frames(dtype: torch.dtype) -> None:
    aatype, _, _, frames, atom14 = random_atoms(dtype)
    positions, mask = atom14_to_atom37(aatype, atom14)
    again = atom37_to_frames(aatype, positions, mask)
    known = again.mask.bool()
    assert torch.equal(again.mask, tables.GROUP_EXISTS(aatype, dtype) * (aatype != residues.UNKNOWN).to(dtype)[:, None])
    # ideal positions are written with three decimals
    torch.testing.assert_close(again.frames.rotations[known], frames.rotations[known], atol=2e-3, rtol=0)
    torch.testing.assert_close(again.frames.translations[known], frames.translations[known], atol=2e-3, rtol=0)


@both_types
def test_torsions_to_atoms_to_torsions(dtype: torch.dtype) -> None:
    aatype, _, angles, _, atom14 = random_atoms(dtype)
    found = torsion_angles(aatype, *atom14_to_atom37(aatype, atom14))
    own = found.mask[:, 2:].bool()  # psi and chis; omega and phi hang on a neighbour that was put elsewhere
    torch.testing.assert_close(found.sin_cos[:, 2:][own], angles[:, 2:][own], atol=2e-3, rtol=0)
    flipped = tables.CHI_PI_PERIODIC(aatype).bool()
    torch.testing.assert_close(found.alt_sin_cos[:, 3:][flipped], -found.sin_cos[:, 3:][flipped])
    torch.testing.assert_close(found.alt_sin_cos[:, 3:][~flipped], found.sin_cos[:, 3:][~flipped])


def test_torsions_do_not_see_a_global_motion() -> None:
    aatype, _, _, _, atom14 = random_atoms(torch.float64)
    positions, mask = atom14_to_atom37(aatype, atom14)
    moved = random_rigid(1, 1, dtype=torch.float64, spread=100.0).apply(positions)
    still, turned = torsion_angles(aatype, positions, mask), torsion_angles(aatype, moved, mask)
    known = still.mask.bool()
    torch.testing.assert_close(turned.sin_cos[known], still.sin_cos[known], atol=1e-7, rtol=0)


def test_renaming_symmetric_atoms_is_the_alternative_ground_truth() -> None:
    """The alternative names' ground truth is the ground truth of the renamed atoms, and renaming twice is nothing."""
    aatype, _, _, _, atom14 = random_atoms(torch.float64)
    swapped = tables.ATOM14_SWAPPED(aatype)
    renamed = torch.gather(atom14, -2, swapped.unsqueeze(-1).expand(-1, -1, 3))
    none = torch.zeros(0, 42)
    truths = []
    for atoms in (atom14, renamed):
        targets = Targets(*atom14_to_atom37(aatype, atoms), none.long(), none, torch.tensor(1.0), torch.tensor(1.0))
        truths.append(make_ground_truth(aatype, targets, torch.ones(42, dtype=torch.float64)))
    one, other = truths
    torch.testing.assert_close(one.alt_atom14_positions, other.atom14_positions)
    torch.testing.assert_close(other.alt_atom14_positions, one.atom14_positions)
    known = one.frames_mask.bool()
    torch.testing.assert_close(one.alt_frames.rotations[known], other.frames.rotations[known], atol=5e-3, rtol=0)
    assert set(aatype[one.atom14_is_ambiguous.any(-1)].tolist()) == {residues.RESTYPE_INDEX[r] for r in "DEFY"}
    assert float((one.alt_atom14_positions - one.atom14_positions).abs().max()) > 1.0


def test_padding_has_no_ground_truth() -> None:
    aatype, _, _, _, atom14 = random_atoms(torch.float32)
    none = torch.zeros(0, 42)
    targets = Targets(*atom14_to_atom37(aatype, atom14), none.long(), none, torch.tensor(1.0), torch.tensor(1.0))
    seq_mask = torch.ones(42)
    seq_mask[-5:] = 0
    truth = make_ground_truth(aatype, targets, seq_mask)._asdict()
    for name in [field for field in truth if field.endswith(("mask", "exists"))]:
        assert (float(truth[name][-5:].max()), float(truth[name][:-5].max())) == (0, 1), name
