"""Laws of one pass and of recycling that hold whatever the weights are; float64, so that a broken law is not rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from foldline.data_store.types import FeatureBatch, schema_of
from foldline.model.alphafold import AlphaFold, run_cycles, run_ensemble
from foldline.model.config import tiny
from foldline.model.outputs import ModelOutput, Recycled
from foldline.tests.model.samples import features, network

WITHOUT_TEMPLATES = replace(tiny(), template=replace(tiny().template, enabled=False))


@pytest.fixture(scope="module")
def model() -> AlphaFold:
    return network(tiny())


def run(model: AlphaFold, *cycles: FeatureBatch) -> ModelOutput:
    with torch.no_grad():
        return run_cycles(model, cycles)


def flat(value: object) -> list[Tensor]:
    """The tensors of an output, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in value if part is not None for tensor in flat(part)] if isinstance(value, tuple) else []


def per_residue(out: ModelOutput) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
    """Results and their residue axes; ``m`` and the masked-MSA logits have their rows before those."""
    structure = out.structure
    return {
        "m": (out.m, (-2,)),
        "z": (out.z, (-2, -3)),
        "s": (out.s, (-2,)),
        "positions": (structure.positions, (-3,)),
        "rotations": (structure.rotations, (-3,)),
        "angles": (structure.angles, (-3,)),
        "distogram": (out.distogram, (-2, -3)),
        "masked_msa": (out.masked_msa, (-2,)),
        "plddt": (out.plddt, (-2,)),
        "pae": (out.pae, (-2, -3)),
    }


def assert_same(ours: ModelOutput, other: ModelOutput) -> None:
    for a, b in zip(flat(ours), flat(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_batch_is_its_samples(model: AlphaFold) -> None:
    samples = [(features(seed=seed), features(seed=seed + 10)) for seed in (0, 1)]
    passes = [FeatureBatch(*(torch.stack(fields) for fields in zip(*members, strict=True))) for members in zip(*samples, strict=True)]
    together = run(model, *passes)
    for i, sample in enumerate(samples):
        alone = run(model, *sample)
        for name, (tensor, _) in per_residue(alone).items():
            batched = per_residue(together)[name][0]
            batched = batched[:, i] if name in ("rotations", "angles") else batched[i]  # iterations come first
            torch.testing.assert_close(batched, tensor, rtol=1e-9, atol=1e-9)


def padded(batch: FeatureBatch, axis_name: str, extra: int) -> FeatureBatch:
    """``batch`` with ``extra`` more places along one dimension, filled with noise except for what masks them."""

    def pad(name: str, tensor: Tensor) -> Tensor:
        for axis, dim in enumerate(schema_of(FeatureBatch)[name].dims):
            if dim == axis_name:
                shape = (*tensor.shape[:axis], extra, *tensor.shape[axis + 1 :])
                generator = torch.Generator().manual_seed(axis)
                filler = torch.zeros(shape, dtype=tensor.dtype)
                if "mask" not in name:
                    filler = filler + (torch.randint(20, shape, generator=generator) if tensor.dtype == torch.long else 3.0)
                tensor = torch.cat((tensor, filler), axis)
        return tensor

    return FeatureBatch(**{name: pad(name, tensor) for name, tensor in batch._asdict().items()})


@pytest.mark.parametrize("dim", ["N_res", "N_clust", "N_extra", "N_templ"])
def test_padding_changes_nothing(model: AlphaFold, dim: str) -> None:
    passes = [features(seed=seed) for seed in (0, 1)]
    alone, wider = run(model, *passes), run(model, *(padded(batch, dim, 3) for batch in passes))
    n_clust, n_res = passes[0].msa_mask.shape
    others = per_residue(wider)
    for name, (tensor, axes) in per_residue(alone).items():
        other = others[name][0]
        for axis in axes:
            other = other.narrow(axis, 0, n_res)
        torch.testing.assert_close(other[:n_clust] if name in ("m", "masked_msa") else other, tensor, rtol=1e-9, atol=1e-9)


def test_the_order_of_sequences_does_not_matter(model: AlphaFold) -> None:
    batch = features()
    rows, extra = torch.tensor([0, 4, 2, 1, 3]), torch.tensor([5, 3, 1, 0, 2, 4])
    moved = {name: tensor[extra] for name, tensor in batch._asdict().items() if name.startswith("extra_")}
    shuffled = batch._replace(msa_feat=batch.msa_feat[rows], msa_mask=batch.msa_mask[rows], **moved)
    one, other = run(model, batch), run(model, shuffled)
    assert_same(one._replace(m=one.m[rows], masked_msa=one.masked_msa[rows]), other)


def test_where_templates_stand_in_space_does_not_matter() -> None:
    """Without torsion rows: those of the first residue reach for a neighbour that is not there, at the origin."""
    model = network(replace(tiny(), template=replace(tiny().template, embed_torsion_angles=False)))
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    turn = turn * torch.linalg.det(turn)
    batch = features()
    moved = batch._replace(template_positions=batch.template_positions @ turn.T + 5.0)
    assert_same(run(model, batch), run(model, moved))


def test_no_templates_and_masked_templates_are_the_same(model: AlphaFold) -> None:
    batch = features()
    masked = batch._replace(template_mask=torch.zeros(2).double(), template_atom_mask=torch.zeros_like(batch.template_atom_mask))
    none = batch._replace(**{name: tensor[:0] for name, tensor in batch._asdict().items() if name.startswith("template_")})
    assert_same(run(model, masked), run(model, none))


def test_templates_are_read(model: AlphaFold) -> None:
    batch = features()
    other = batch._replace(template_positions=batch.template_positions * 1.5)
    assert not torch.allclose(run(model, batch).z, run(model, other).z)


@pytest.mark.parametrize("sizes", [{"n_res": 1}, {"n_res": 2}, {"n_clust": 1}, {"n_extra": 1}, {"n_templ": 1}, {"n_res": 1, "n_clust": 1}])
def test_smallest_sizes_are_finite(model: AlphaFold, sizes: dict[str, int]) -> None:
    batch = features(**sizes)
    for each in (batch, batch._replace(extra_msa_mask=torch.zeros_like(batch.extra_msa_mask))):
        out = run(model, each, each)
        assert all(bool(torch.isfinite(tensor).all()) for tensor in flat(out))
        assert out.structure.positions.shape == (*batch.aatype.shape, 37, 3)


def test_a_network_without_templates_ignores_them() -> None:
    model, batch = network(WITHOUT_TEMPLATES), features()
    other = batch._replace(template_positions=batch.template_positions + 1.0)
    assert_same(run(model, batch), run(model, other))


def test_recycling_changes_the_result_and_stops_gradients(model: AlphaFold) -> None:
    first, last = features(seed=0), features(seed=1)
    first = first._replace(msa_feat=first.msa_feat.clone().requires_grad_())
    last = last._replace(msa_feat=last.msa_feat.clone().requires_grad_())
    graphs: list[bool] = []
    hook = model.evoformer.register_forward_hook(lambda _, arguments, out: graphs.append(out[1].requires_grad))
    out = run_cycles(model, (first, last))
    hook.remove()
    assert graphs == [False, True], "only the last pass keeps activations"
    assert not any(tensor.requires_grad for tensor in out.recycled)
    out.structure.positions.sum().backward()
    assert first.msa_feat.grad is None
    assert last.msa_feat.grad is not None
    assert float(last.msa_feat.grad.abs().sum()) > 0
    assert not torch.allclose(out.z, run(model, last).z)


def test_what_is_recycled_enters_only_through_its_values(model: AlphaFold) -> None:
    """The last pass on its own, from the recycled tensors as constants, gives the same gradients as the whole loop."""
    first, last = features(seed=0), features(seed=1)

    def gradients(forward: Callable[[], ModelOutput]) -> list[Tensor]:
        model.zero_grad()
        out = forward()
        (out.distogram.square().mean() + out.structure.positions.square().mean()).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    constants = Recycled(*(tensor.clone() for tensor in run(model, first).recycled))
    looped, alone = gradients(lambda: run_cycles(model, (first, last))), gradients(lambda: model(last, constants))
    assert len(looped) == len(alone) > 100
    for a, b in zip(looped, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_autocast_keeps_the_gradients_of_recycled_runs() -> None:
    """Casts cached by the passes without gradients must not be reused by the last one."""
    model = network(tiny(), dtype=torch.float32)
    batch = features(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = run_cycles(model, (batch, batch))
        (out.distogram.float().square().mean() + out.structure.positions.square().mean()).backward()
    assert model.evoformer.blocks[0].row_attention.attention.linear_q.weight.grad is not None
    assert model.input_embedder.linear_msa_m.weight.grad is not None


def test_evaluation_is_deterministic_and_training_drops(model: AlphaFold) -> None:
    batch = features()
    for a, b in zip(flat(run(model, batch)), flat(run(model, batch)), strict=True):
        assert torch.equal(a, b)
    model.train()
    try:
        torch.manual_seed(0)
        assert not torch.allclose(run(model, batch).z, run(model, batch).z)
    finally:
        model.eval()


def test_an_ensemble_of_equals_is_one_of_them(model: AlphaFold) -> None:
    passes = [features(seed=seed) for seed in (0, 1)]
    assert_same(run(model, *passes), run_ensemble(model, [[batch, batch] for batch in passes]))


def test_a_new_network_starts_from_a_single_point() -> None:
    """AF2's initialisation: zero output layers leave every residue at the origin (supplement 1.11.4)."""
    out = run(AlphaFold(tiny()).double().eval(), features())
    assert float(out.structure.translations.abs().max()) == 0.0
    assert float(out.distogram.abs().max()) == 0.0
