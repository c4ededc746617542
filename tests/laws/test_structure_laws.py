"""Laws of the structure module: rigid motions, masks, gradients, shapes, tracing. No reference, only what must hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import jaxtyping
import pytest
import torch
from torch import Tensor

from foldline.model.config import StructureConfig
from foldline.model.ipa import InvariantPointAttention
from foldline.model.outputs import StructureOutput
from foldline.model.rigid import Rigid
from foldline.model.structure import StructureModule
from foldline.tests.laws.test_geometry_laws import all_types, both_types, generator, random_rigid

C_S, C_Z = 12, 6
CONFIG = StructureConfig(iterations=3, c_hidden=4, heads=3, query_points=2, value_points=3, c_resnet=8)


def random_weights(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """No layer at its initial zeros: a law that only holds for them would pass otherwise."""
    g = generator(1)
    for parameter in module.parameters():
        fan = parameter.shape[-1] if parameter.dim() > 1 else 4
        parameter.data = torch.randn(parameter.shape, generator=g) * fan**-0.5
    return module.to(dtype).eval()


def attention_inputs(n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    g = generator(3)
    mask = torch.ones(n)
    mask[n // 2] = 0.0
    s, z = torch.randn(n, C_S, generator=g), torch.randn(n, n, C_Z, generator=g)
    return s.to(dtype), z.to(dtype), mask.to(dtype)


def attention(dtype: torch.dtype) -> InvariantPointAttention:
    module = random_weights(InvariantPointAttention(C_S, C_Z, CONFIG), dtype)
    assert isinstance(module, InvariantPointAttention)
    return module


def structure_module(dtype: torch.dtype) -> StructureModule:
    module = random_weights(StructureModule(C_S, C_Z, CONFIG), dtype)
    assert isinstance(module, StructureModule)
    return module


# Attention


@pytest.mark.parametrize(
    ("dtype", "far", "tolerance"), [(torch.float64, 100.0, 1e-9), (torch.float32, 1.0, 1e-5), (torch.float32, 100.0, 1e-4)]
)
def test_attention_is_invariant_under_a_global_motion(dtype: torch.dtype, far: float, tolerance: float) -> None:
    """``far`` is the global shift in internal units of 10 Å; 100 stands for 1000 Å, where an fp32 coordinate itself has 6e-5 Å."""
    s, z, mask = attention_inputs(24, dtype)
    frames, module = random_rigid(24, dtype=dtype), attention(dtype)
    motion = random_rigid(1, dtype=dtype, spread=1.0)
    motion = Rigid(motion.rotations, motion.translations / motion.translations.norm() * far)
    with torch.no_grad():
        still, moved = module(s, z, frames, mask), module(s, z, motion.compose(frames), mask)
    assert float(still.std()) > 0.1
    torch.testing.assert_close(moved[mask.bool()], still[mask.bool()], atol=tolerance, rtol=tolerance)


def test_attention_reads_the_frames() -> None:
    s, z, mask = attention_inputs(9, torch.float32)
    with torch.no_grad():
        a, b = (attention(torch.float32)(s, z, random_rigid(9, dtype=torch.float32, seed=seed), mask) for seed in (1, 2))
    assert float((a - b).abs().max()) > 0.1


def test_attention_gradients_are_those_of_finite_differences() -> None:
    s, z, mask = attention_inputs(4, torch.float64)
    frames, module = random_rigid(4, dtype=torch.float64), attention(torch.float64)
    leaves = [x.clone().requires_grad_() for x in (s, z, frames.rotations, frames.translations, module.head_weights.detach())]

    def run(s: Tensor, z: Tensor, rotations: Tensor, translations: Tensor, weights: Tensor) -> Tensor:
        out = torch.func.functional_call(module, {"head_weights": weights}, (s, z, Rigid(rotations, translations), mask))
        assert isinstance(out, Tensor)
        return out[mask.bool()]  # 1e5 on a masked row leaves too few digits for differences

    assert torch.autograd.gradcheck(run, leaves, atol=1e-6)


# The module


def fold(module: StructureModule, n: int, dtype: torch.dtype) -> tuple[StructureOutput, Tensor]:
    s, z, mask = attention_inputs(n, dtype)
    with torch.no_grad():
        return module(s, z, all_types(n), mask), mask


@both_types
def test_one_step_is_equivariant(dtype: torch.dtype) -> None:
    s, z, mask = attention_inputs(11, dtype)
    module, frames = structure_module(dtype), random_rigid(11, dtype=dtype)
    motion = random_rigid(1, dtype=dtype, spread=10.0, seed=8)
    with torch.no_grad():
        s_still, still = module._step(s, z, frames, mask)
        s_moved, moved = module._step(s, z, motion.compose(frames), mask)
    real, tolerance = mask.bool(), 1e-4 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(s_moved[real], s_still[real], atol=tolerance, rtol=0)
    expected = motion.compose(still)
    torch.testing.assert_close(moved.translations[real], expected.translations[real], atol=tolerance, rtol=0)
    torch.testing.assert_close(moved.rotations[real], expected.rotations[real], atol=tolerance, rtol=0)
    assert float((still.translations - frames.translations).abs().max()) > 0.1


@both_types
def test_masked_residues_change_nothing(dtype: torch.dtype) -> None:
    n, module = 10, structure_module(dtype)
    s, z, mask = attention_inputs(n, dtype)
    gone = mask == 0
    s_other, z_other = s.clone(), z.clone()
    s_other[gone] = 7.0
    z_other[gone], z_other[:, gone] = -5.0, -5.0
    aatype = all_types(n)
    with torch.no_grad():
        one, other = module(s, z, aatype, mask), module(s_other, z_other, torch.where(gone, 4, aatype), mask)
        without = module(s[~gone], z[~gone][:, ~gone], aatype[~gone], mask[~gone])
    for a, b, c in zip(one[:7], other[:7], without[:7], strict=True):
        assert torch.equal(a[:, ~gone], b[:, ~gone])
        torch.testing.assert_close(a[:, ~gone], c, atol=1e-4 if dtype == torch.float32 else 1e-9, rtol=0)
    assert float(one.positions[gone].abs().max()) == 0
    assert float(one.atom_mask[gone].max()) == 0


@pytest.mark.parametrize("n", [1, 2, 5])
def test_any_number_of_residues(n: int) -> None:
    module = structure_module(torch.float32)
    s, z, _ = attention_inputs(n, torch.float32)
    with torch.no_grad():
        out = module(s, z, all_types(n), torch.ones(n))
    assert out.atom14.shape == (CONFIG.iterations, n, 14, 3)
    assert out.positions.shape == (n, 37, 3)
    assert all(bool(torch.isfinite(x).all()) for x in out)


def test_an_empty_mask_gives_no_nan() -> None:
    module = structure_module(torch.float32)
    s, z, _ = attention_inputs(6, torch.float32)
    out = module(s, z, all_types(6), torch.zeros(6))
    out.single.sum().backward()
    assert all(bool(torch.isfinite(x).all()) for x in out)
    assert all(bool(torch.isfinite(p.grad).all()) for p in module.parameters() if p.grad is not None)


def test_leading_dimensions_are_independent_samples() -> None:
    module, g = structure_module(torch.float64), generator(5)
    s, z = (torch.randn(2, 3, 5, *rest, generator=g, dtype=torch.float64) for rest in ((C_S,), (5, C_Z)))
    aatype, mask = torch.randint(0, 21, (2, 3, 5), generator=g), torch.ones(2, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        together = module(s, z, aatype, mask)
        for i in range(2):
            for j in range(3):
                alone = module(s[i, j], z[i, j], aatype[i, j], mask[i, j])
                for a, b in zip(together[:7], alone[:7], strict=True):
                    torch.testing.assert_close(a[:, i, j], b, atol=1e-9, rtol=0)
                torch.testing.assert_close(together.positions[i, j], alone.positions, atol=1e-9, rtol=0)


def test_a_new_module_leaves_every_residue_at_the_origin() -> None:
    module = StructureModule(C_S, C_Z, CONFIG).eval()
    out, _ = fold(module, 6, torch.float32)
    assert float(out.translations.abs().max()) == 0
    torch.testing.assert_close(out.rotations, torch.eye(3).expand_as(out.rotations))


def test_rotations_carry_no_gradient_from_one_iteration_to_the_next() -> None:
    """A rotation seen by an attention whose frames come from an earlier step must not be a function of that step's weights."""
    module, seen = structure_module(torch.float64), []
    module.ipa.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    s, z, mask = attention_inputs(5, torch.float64)
    out = module(s, z, all_types(5), mask)
    assert [rigid.rotations.requires_grad for rigid in seen] == [False] * CONFIG.iterations
    assert [rigid.translations.requires_grad for rigid in seen] == [False] + [True] * (CONFIG.iterations - 1)
    assert out.rotations.requires_grad  # every iteration's own rotations are learnt, the last's too
    for step in out.rotations:
        (gradient,) = torch.autograd.grad(step.square().sum() + step.sum(), module.backbone_update.weight, retain_graph=True)
        assert float(gradient.abs().max()) > 0


def test_autocast_does_not_reach_inside() -> None:
    module = structure_module(torch.float32)
    plain, _ = fold(module, 7, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, _ = fold(module, 7, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))
    s, z, mask = attention_inputs(7, torch.float32)
    with torch.no_grad():
        half = module(s.bfloat16(), z.bfloat16(), all_types(7), mask)
    assert half.positions.dtype == torch.float32


# Tracing


@pytest.fixture
def untyped() -> Iterator[None]:
    """No shape checks: a tracer would take their comparisons for facts about the lengths."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


class Flat(torch.nn.Module):
    """The structure module with a plain tuple for the tracers."""

    def __init__(self, module: StructureModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, s: Tensor, z: Tensor, aatype: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.module(s, z, aatype, mask))


@pytest.mark.usefixtures("untyped")
def test_torch_export_with_dynamic_length() -> None:
    module = Flat(structure_module(torch.float32)).eval()
    module.module.config = replace(CONFIG, iterations=1)
    n = torch.export.Dim("n", min=1, max=2048)
    s, z, mask = attention_inputs(7, torch.float32)
    shapes = ({0: n}, {0: n, 1: n}, {0: n}, {0: n})
    program = torch.export.export(module, (s, z, all_types(7), mask), dynamic_shapes=shapes, strict=False).module()
    for length in (12, 1):
        s, z, _ = attention_inputs(length, torch.float32)
        args = (s, z, all_types(length), torch.ones(length))
        with torch.no_grad():
            for ours, traced in zip(module(*args), program(*args), strict=True):
                torch.testing.assert_close(traced, ours, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("untyped")
def test_traced_onnx_with_dynamic_length(tmp_path: object) -> None:
    import onnxruntime

    module = Flat(structure_module(torch.float32)).eval()
    module.module.config = replace(CONFIG, iterations=2)
    s, z, mask = attention_inputs(7, torch.float32)
    path, names = f"{tmp_path}/structure.onnx", ["s", "z", "aatype", "mask"]
    axes = {"s": {0: "n"}, "z": {0: "n", 1: "n"}, "aatype": {0: "n"}, "mask": {0: "n"}}
    args = (s, z, all_types(7), mask)
    torch.onnx.export(module, args, path, input_names=names, dynamic_axes=axes, opset_version=18, dynamo=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for length in (12, 1):
        s, z, _ = attention_inputs(length, torch.float32)
        args = (s, z, all_types(length), torch.ones(length))
        found = session.run(None, {name: value.numpy() for name, value in zip(names, args, strict=True)})
        with torch.no_grad():
            for ours, traced in zip(module(*args), found, strict=True):
                torch.testing.assert_close(torch.from_numpy(traced), ours, atol=2e-4, rtol=1e-4)
