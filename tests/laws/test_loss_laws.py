"""What must hold for the losses whatever their numbers are: invariances, masks, batches, renaming, gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from foldline.data_store.residues import ATOM_INDEX, CA, RESIDUE_ATOM_SWAPS, RESTYPE_INDEX, THREE_TO_ONE
from foldline.data_store.types import FeatureBatch
from foldline.model.all_atom import make_ground_truth
from foldline.model.losses.bonds import peptide_bonds
from foldline.model.losses.clashes import between_residue_clashes
from foldline.model.losses.fape import EPS, backbone_fape, frame_aligned_point_error, sidechain_fape
from foldline.model.losses.precision import full_precision
from foldline.model.losses.renaming import rename_ground_truth
from foldline.model.losses.total import AlphaFoldLoss, scale_by_length
from foldline.model.losses.violations import find_violations, violation_loss
from foldline.model.losses.within_residue import within_residue
from foldline.model.metrics import lddt_ca
from foldline.model.outputs import Loss
from foldline.model.rigid import Rigid
from foldline.tests.laws.loss_cases import Sample, config, pad, random_rotations, sample, stack, structure

N_RES = 24


def rigid_motion(seed: int) -> Rigid:
    generator = torch.Generator().manual_seed(seed)
    return Rigid(random_rotations(generator=generator), 30 * torch.randn(3, generator=generator, dtype=torch.float64))


def loss_of(value: Sample) -> Loss:
    return AlphaFoldLoss(config())(*value)


def assert_same(ours: Loss, theirs: Loss, tolerance: float = 1e-9) -> None:
    for name, a, b in zip(Loss._fields, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


def moved(value: Sample, motion: Rigid) -> Sample:
    """The prediction carried through space as a rigid body."""
    output, batch, targets = value
    s = output.structure
    backbone = motion.compose(Rigid(s.rotations, s.translations))
    groups = motion.compose(Rigid(s.frame_rotations, s.frame_translations))
    return (
        output._replace(
            structure=s._replace(
                rotations=backbone.rotations,
                translations=backbone.translations,
                frame_rotations=groups.rotations,
                frame_translations=groups.translations,
                atom14=motion.apply(s.atom14),
                positions=motion.apply(s.positions),
            )
        ),
        batch,
        targets,
    )


def mirrored(value: Sample) -> Sample:
    """The prediction in the mirror x -> -x; frames follow their atoms (a frame's own z axis flips, so that it stays right-handed)."""
    output, batch, targets = value
    s, mirror = output.structure, torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    turn = mirror[:, None] * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    fields = {
        "rotations": s.rotations * turn,
        "frame_rotations": s.frame_rotations * turn,
        "translations": s.translations * mirror,
        "frame_translations": s.frame_translations * mirror,
        "atom14": s.atom14 * mirror,
        "positions": s.positions * mirror,
    }
    return output._replace(structure=s._replace(**fields)), batch, targets


def perfect(seed: int) -> Sample:
    """A fully resolved truth, and a prediction equal to it in every iteration."""
    output, batch, targets = sample(N_RES, seed)
    s = structure(batch.aatype, torch.Generator().manual_seed(seed))
    repeated = s._replace(**{name: getattr(s, name)[-1:].expand_as(getattr(s, name)) for name in s._fields[:7]})
    return output._replace(structure=repeated), batch, targets._replace(positions=s.positions, atom_mask=s.atom_mask)


def test_every_term_is_invariant_under_rigid_motion_of_the_prediction() -> None:
    value = sample(N_RES, 1)
    assert_same(loss_of(moved(value, rigid_motion(2))), loss_of(value))


def test_a_mirror_image_has_another_fape_but_the_same_lddt() -> None:
    value = perfect(3)
    image = mirrored(value)
    assert loss_of(image).fape > 20 * loss_of(value).fape
    ca, true_ca, mask = image[0].structure.positions[..., CA, :], value[2].positions[..., CA, :], value[2].atom_mask[..., CA]
    torch.testing.assert_close(lddt_ca(ca, true_ca, mask).mean, torch.ones((), dtype=torch.float64))


def test_a_perfect_prediction_has_no_structural_error() -> None:
    value = perfect(4)
    loss = loss_of(value)
    floor = EPS**0.5 / config().loss.fape_unit  # the root's epsilon: 0.01 Å
    assert float(loss.fape) == pytest.approx(floor, rel=1e-3)
    norm_only = AlphaFoldLoss(replace(config(), loss=replace(config().loss, angle_norm_weight=0.0)))(*value).chi
    assert float(norm_only) < 1e-8
    score = lddt_ca(value[2].positions[..., CA, :], value[2].positions[..., CA, :], value[2].atom_mask[..., CA])
    assert torch.equal(score.per_residue, torch.ones(N_RES, dtype=torch.float64))


def test_ideal_residues_violate_no_bond_and_no_angle() -> None:
    """Whatever the torsions; except proline, whose ring they would have to close. Random torsions do let side chains touch themselves."""
    _, batch, targets = perfect(5)
    truth = make_ground_truth(batch.aatype, targets, batch.seq_mask)
    checked = truth.atom14_exists * (batch.aatype != RESTYPE_INDEX["P"]).unsqueeze(-1)
    assert not within_residue(truth.atom14_positions, checked, batch.aatype, overlap_tolerance=10.0).mask.any()
    stretched = 1.5 * truth.atom14_positions
    assert within_residue(stretched, checked, batch.aatype, overlap_tolerance=10.0).mask[checked.sum(-1) > 0].any(-1).all()


def test_clamping_blends_between_its_ends_and_shortens() -> None:
    output, batch, targets = sample(N_RES, 6)
    values = [
        float(AlphaFoldLoss(config())(output, batch, targets._replace(use_clamped_fape=torch.tensor(c, dtype=torch.float64))).fape)
        for c in (0.0, 0.25, 1.0)
    ]
    assert values[0] > values[2]
    assert values[1] == pytest.approx(0.75 * values[0] + 0.25 * values[2])


def test_masked_atoms_of_the_truth_change_nothing() -> None:
    output, batch, targets = sample(N_RES, 7)
    hidden = targets.positions + 50.0 * (1 - targets.atom_mask).unsqueeze(-1)
    assert_same(loss_of((output, batch, targets._replace(positions=hidden))), loss_of((output, batch, targets)))


@pytest.mark.parametrize("garbage", [0.0, 17.0])
def test_padding_changes_nothing(garbage: float) -> None:
    value = sample(N_RES, 8)
    assert_same(loss_of(pad(value, N_RES, 5, garbage)), loss_of(value), tolerance=1e-8)


def test_a_batch_of_two_is_the_mean_of_both() -> None:
    samples = [sample(N_RES, 9), sample(N_RES, 10)]
    samples[1] = (
        *samples[1][:2],
        samples[1][2]._replace(resolution=torch.tensor(3.5).double(), use_clamped_fape=torch.tensor(0.0).double()),
    )
    batched = stack(samples)
    single = [loss_of(one) for one in samples]
    assert_same(loss_of(batched), Loss(*(torch.stack(terms).mean() for terms in zip(*single, strict=True))))
    per_sample = AlphaFoldLoss(config()).per_sample(*batched)
    assert_same(Loss(*(term[1] for term in per_sample)), single[1])
    assert per_sample.total.shape == (2,)
    assert float(single[1].plddt) == float(single[1].pae) == float(single[1].experimentally_resolved) == 0.0
    assert float(single[0].plddt) > 0


@pytest.mark.parametrize(("resolution", "trusted"), [(0.0, False), (2.0, True), (3.0, True), (3.5, False)])
def test_confidence_is_learnt_from_sharp_experiments_only(resolution: float, trusted: bool) -> None:
    """Zero means unknown: NMR, distillation."""
    output, batch, targets = sample(8, 22)
    loss = loss_of((output, batch, targets._replace(resolution=torch.tensor(resolution).double())))
    assert {float(loss.plddt) > 0, float(loss.pae) > 0, float(loss.experimentally_resolved) > 0} == {trusted}
    assert min(float(loss.distogram), float(loss.masked_msa)) > 0


def test_the_total_is_the_sum_of_its_terms_and_weights_scale_them() -> None:
    value = sample(N_RES, 11)
    loss = loss_of(value)
    torch.testing.assert_close(loss.total, torch.stack(loss[1:]).sum())
    doubled = AlphaFoldLoss(replace(config(), loss=replace(config().loss, fape_weight=2.0, distogram_weight=0.0, pae_weight=0.3)))(*value)
    torch.testing.assert_close(doubled.fape, 2 * loss.fape)
    torch.testing.assert_close(doubled.violation, 2 * loss.violation)
    torch.testing.assert_close(doubled.pae, 3 * loss.pae)
    assert float(doubled.distogram) == 0.0


def symmetric_truth(batch: FeatureBatch, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(positions, the same with the names of symmetric atoms swapped, mask): the second atom of each pair is the first turned by pi."""
    s = structure(batch.aatype, torch.Generator().manual_seed(seed))
    positions, axes = s.positions.clone(), {"ASP": ("CB", "CG"), "GLU": ("CG", "CD"), "PHE": ("CB", "CG"), "TYR": ("CB", "CG")}
    swapped = positions.clone()
    for name, swaps in RESIDUE_ATOM_SWAPS.items():
        rows = batch.aatype == RESTYPE_INDEX[THREE_TO_ONE[name]]
        assert rows.any(), f"no {name} in the sample"
        start, end = (positions[rows, ATOM_INDEX[atom]] for atom in axes[name])
        axis = torch.nn.functional.normalize(end - start, dim=-1)
        for one, other in swaps.items():
            first = positions[rows, ATOM_INDEX[one]]
            turned = 2 * (end + ((first - end) * axis).sum(-1, keepdim=True) * axis) - first
            positions[rows, ATOM_INDEX[other]] = swapped[rows, ATOM_INDEX[one]] = turned
            swapped[rows, ATOM_INDEX[other]] = first
    return positions, swapped, s.atom_mask


def test_a_truth_with_swapped_names_gives_the_same_loss() -> None:
    output, batch, targets = sample(N_RES, 12)
    positions, swapped, mask = symmetric_truth(batch, 13)
    assert not torch.equal(positions, swapped)
    ours, theirs = (loss_of((output, batch, targets._replace(positions=p, atom_mask=mask))) for p in (positions, swapped))
    assert_same(ours, theirs, tolerance=1e-6)


def test_without_renaming_the_swap_would_be_seen() -> None:
    _, batch, targets = perfect(13)
    truth = make_ground_truth(batch.aatype, targets, batch.seq_mask)
    groups, atom14 = truth.alt_frames, truth.alt_atom14_positions  # a perfect prediction under the other names
    renamed = rename_ground_truth(truth, atom14)
    floor = EPS**0.5 / 10
    assert float(sidechain_fape(groups, atom14, renamed)) == pytest.approx(floor, rel=1e-3)
    assert float(sidechain_fape(groups, atom14, truth)) > 10 * floor


def test_autocast_around_the_losses_does_not_round_them() -> None:
    value = sample(N_RES, 14, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss_of(value)
    assert_same(inside, loss_of(value), tolerance=0.0)
    assert all(term.dtype == torch.float32 for term in inside)
    half = value[0]._replace(distogram=value[0].distogram.bfloat16(), masked_msa=value[0].masked_msa.bfloat16())
    widened = half._replace(distogram=half.distogram.float(), masked_msa=half.masked_msa.float())
    assert_same(loss_of((half, *value[1:])), loss_of((widened, *value[1:])), tolerance=0.0)


def test_full_precision_reaches_products_and_named_tuples() -> None:
    generator = torch.Generator().manual_seed(23)
    a, b = torch.randn(8, 8, generator=generator), torch.randn(8, 8, generator=generator)

    @full_precision
    def product(pair: Rigid) -> Tensor:
        return pair.rotations @ pair.translations

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (a @ b).dtype == torch.bfloat16
        inside = product(Rigid(a, b))
    assert torch.equal(inside, a @ b)
    assert product(Rigid(a.bfloat16(), b.bfloat16())).dtype == torch.float32


@pytest.mark.parametrize("n_res", [1, 2])
def test_one_residue_and_all_masked_targets_give_finite_zeros(n_res: int) -> None:
    output, batch, targets = sample(n_res, 15)
    leaves = [output.structure.atom14.requires_grad_(), output.distogram.requires_grad_(), output.plddt.requires_grad_()]
    loss = loss_of((output, batch, targets))
    assert all(term.isfinite() for term in loss)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss.total, leaves))
    nothing = targets._replace(atom_mask=torch.zeros_like(targets.atom_mask), bert_mask=torch.zeros_like(targets.bert_mask))
    empty = AlphaFoldLoss(replace(config(), loss=replace(config().loss, violation_weight=0.0, angle_norm_weight=0.0)))(
        output, batch, nothing
    )
    assert (empty.total - empty.experimentally_resolved).item() == 0.0
    hidden = batch._replace(seq_mask=torch.zeros_like(batch.seq_mask))
    assert loss_of((output, hidden, nothing)).total.item() == 0.0


def test_gradients_are_finite_where_all_predicted_atoms_coincide() -> None:
    """As at the first step: every frame is the identity at the origin, with a zero angle."""
    output, batch, targets = sample(N_RES, 16)
    s = output.structure
    eye = torch.eye(3, dtype=torch.float64)
    leaves = [
        eye.expand_as(s.rotations).clone(),
        *(torch.zeros_like(t) for t in (s.translations, s.angles, s.unnormalized_angles)),
        eye.expand_as(s.frame_rotations).clone(),
        *(torch.zeros_like(t) for t in (s.frame_translations, s.atom14)),
    ]
    for leaf in leaves:
        leaf.requires_grad_()
    loss = loss_of((output._replace(structure=s._replace(**dict(zip(s._fields, leaves, strict=False)))), batch, targets))
    gradients = torch.autograd.grad(loss.total, leaves)
    assert all(gradient.isfinite().all() for gradient in gradients)


def few_atoms(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    output, batch, targets = sample(4, seed)
    truth = make_ground_truth(batch.aatype, targets, batch.seq_mask)
    return output.structure.atom14[-1].clone().requires_grad_(), truth.atom14_exists, batch.residue_index, batch.aatype


@pytest.mark.parametrize("clamped", [0.0, 0.5, 1.0])
def test_fape_gradients_are_the_finite_differences(clamped: float) -> None:
    generator = torch.Generator().manual_seed(17)
    rotations, true_rotations = (random_rotations(3, generator=generator) for _ in range(2))
    translations, true_translations, points, true_points = (
        6 * torch.randn(size, 3, generator=generator, dtype=torch.float64) for size in (3, 3, 5, 5)
    )
    masks = torch.tensor([1.0, 0.0, 1.0]).double(), torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0]).double()

    def fape(rotations: Tensor, translations: Tensor, points: Tensor) -> Tensor:
        return frame_aligned_point_error(
            Rigid(rotations, translations), points, Rigid(true_rotations, true_translations), true_points, *masks, clamped=clamped
        )

    inputs = tuple(tensor.requires_grad_() for tensor in (rotations, translations, points))
    assert torch.autograd.gradcheck(fape, inputs)


def test_violation_gradients_are_the_finite_differences() -> None:
    atom14, exists, index, aatype = few_atoms(18)

    def loss(atom14: Tensor) -> Tensor:
        return violation_loss(find_violations(atom14, exists, index, aatype), exists)

    assert torch.autograd.gradcheck(loss, (atom14,), fast_mode=True)


def test_violations_move_with_the_molecule() -> None:
    atom14, exists, index, aatype = few_atoms(19)
    motion = rigid_motion(20)
    for function in (peptide_bonds, between_residue_clashes):
        for a, b in zip(function(atom14, exists, index, aatype), function(motion.apply(atom14), exists, index, aatype), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_overlapping_atoms_clash_and_bonded_ones_do_not() -> None:
    """Two residues: C of the first and N of the second may touch where the numbers are consecutive, not otherwise."""
    atom14 = torch.zeros(2, 14, 3, dtype=torch.float64)
    atom14[..., 0] = 100 * torch.arange(28).view(2, 14)  # everything far apart
    atom14[1, 0] = atom14[0, 2] + torch.tensor([1.33, 0.0, 0.0])
    exists = torch.ones(2, 14, dtype=torch.float64)
    aatype = torch.tensor([RESTYPE_INDEX["W"]] * 2)
    bonded = between_residue_clashes(atom14, exists, torch.tensor([0, 1]), aatype)
    apart = between_residue_clashes(atom14, exists, torch.tensor([0, 5]), aatype)
    assert not bonded.mask.any()
    assert apart.mask.nonzero().tolist() == [[0, 2], [1, 0]]
    assert float(apart.per_atom[0, 2]) == pytest.approx(1.7 + 1.55 - 1.5 - 1.33)


def test_length_scaling_weighs_each_sample_by_its_own_root() -> None:
    mask = torch.zeros(2, 9)
    mask[0, :9], mask[1, :4] = 1.0, 1.0
    assert float(scale_by_length(torch.tensor([1.0, 10.0]), mask)) == pytest.approx((3 * 1 + 2 * 10) / 2)
    assert float(scale_by_length(torch.tensor(2.0), mask[0])) == pytest.approx(6.0)


def test_backbone_fape_keeps_the_dimension_of_iterations() -> None:
    output, batch, targets = sample(N_RES, 21)
    truth = make_ground_truth(batch.aatype, targets, batch.seq_mask)
    s = output.structure
    last = Rigid(s.rotations[-1], s.translations[-1])
    both = backbone_fape(
        Rigid(s.rotations, s.translations),
        Rigid(truth.backbone.rotations.expand_as(s.rotations), truth.backbone.translations.expand_as(s.translations)),
        truth.backbone_mask.expand(s.rotations.shape[:2]),
    )
    torch.testing.assert_close(both[1], backbone_fape(last, truth.backbone, truth.backbone_mask))
