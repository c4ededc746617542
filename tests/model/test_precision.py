"""Precision policies on real proteins: what stays float32, what that costs, what float32 itself leaves alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from foldline.data_store.config import FeatureConfig
from foldline.data_store.featurize import make_sample
from foldline.data_store.loader import collate
from foldline.data_store.store import Store
from foldline.data_store.types import FeatureBatch, TrainBatch
from foldline.errors import FoldlineError
from foldline.model.alphafold import AlphaFold, run_cycles
from foldline.model.config import tiny
from foldline.model.losses.total import AlphaFoldLoss
from foldline.model.outer_product import OuterProductMean
from foldline.model.outputs import ModelOutput
from foldline.model.precision import BF16, BF16_PURE, FP32, ISLANDS, POLICIES, PrecisionPolicy, apply_precision, describe, find_policy
from foldline.model.primitives import LayerNorm
from foldline.model.remat import checkpoint_blocks
from foldline.tests.model.precision_cases import Errors, demo_store, errors, passes
from foldline.tests.model.samples import features, network

CHAINS = ("1bxy_A", "2hba_A")
SMALL = FeatureConfig(max_msa_clusters=32, max_extra_msa=32)


class Products(TorchDispatchMode):
    """Types that reach the kernels, after autocast: (operation, type of the first operand), counted."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[torch.dtype]] = defaultdict(set)

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        self.seen[function.overloadpacket.__name__].add(next((a.dtype for a in args if isinstance(a, Tensor)), torch.float32))
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return demo_store(tmp_path_factory.mktemp("precision"))


def model_under(policy: PrecisionPolicy) -> AlphaFold:
    model = network(tiny(), dtype=torch.float32)
    apply_precision(model, policy)
    return model


@torch.no_grad()
def fold(policy: PrecisionPolicy, cycles: Sequence[FeatureBatch]) -> ModelOutput:
    return run_cycles(model_under(policy), cycles)


def flat(value: Any) -> list[Tensor]:
    if isinstance(value, tuple):
        return [tensor for part in value for tensor in flat(part)]
    return [value] if isinstance(value, Tensor) else []


def types(value: Any) -> set[torch.dtype]:
    return {tensor.dtype for tensor in flat(value)}


def test_fp32_changes_nothing(store: Store) -> None:
    cycles = passes(store, CHAINS[0], SMALL, 2)
    with torch.no_grad():
        untouched = run_cycles(network(tiny(), dtype=torch.float32), cycles)
    for ours, theirs in zip(flat(fold(FP32, cycles)), flat(untouched), strict=True):
        assert torch.equal(ours, theirs)
    again = model_under(BF16)
    apply_precision(again, FP32)
    with torch.no_grad():
        assert torch.equal(run_cycles(again, cycles).structure.positions, untouched.structure.positions)


@pytest.mark.parametrize(("policy", "bounds"), [(BF16, Errors(0.01, 0.02, 0.1, 0.002)), (BF16_PURE, Errors(0.015, 0.03, 0.15, 0.005))])
@pytest.mark.parametrize("chain", CHAINS)
def test_errors_on_real_proteins_stay_within_bounds(store: Store, chain: str, policy: PrecisionPolicy, bounds: Errors) -> None:
    cycles = passes(store, chain, SMALL, 2)
    found = errors(fold(policy, cycles), fold(FP32, cycles))
    print(policy.name, chain, found)
    assert max(found) > 1e-6, "nothing ran in bfloat16"
    for name, bound in bounds._asdict().items():
        assert getattr(found, name) < bound, f"{name}: {found}"


def watch(model: AlphaFold) -> dict[str, set[torch.dtype]]:
    """Types of what goes into and comes out of the islands and the trunk's blocks, filled while the model runs."""
    seen: dict[str, set[torch.dtype]] = defaultdict(set)

    def record(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _, args, out: seen[name].update(t for t in types((*args, out)) if t.is_floating_point))

    for module in model.modules():
        if isinstance(module, OuterProductMean):
            record("outer product", module.linear_out)
    for part in (model.structure.ipa, model.structure.angle_resnet, model.structure.backbone_update, *model.structure.transition):
        record("structure", part)
    for head in (model.heads.distogram, model.heads.masked_msa, model.heads.experimentally_resolved, model.heads.plddt, model.heads.pae):
        record("heads", head)
    for stack in (model.evoformer.blocks, model.extra_msa_stack.blocks, model.template_embedder.pair.embedding.stack.blocks):
        for block in stack:
            record("representations", block)
    return seen


@pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
@pytest.mark.parametrize("outer", [False, True], ids=["alone", "within_autocast"])
@torch.no_grad()
def test_islands_compute_in_float32(policy: PrecisionPolicy, outer: bool) -> None:
    """Also inside DeepSpeed's autocast, which is on for the whole step. Templates of the sample reach the pointwise attention's softmax."""
    if outer and policy is FP32:
        pytest.skip("autocast asks for what fp32 does not")
    model = model_under(policy)
    seen, batch = watch(model), features(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=outer), Products() as kernels:
        out = run_cycles(model, (batch, batch))
    for island in ("outer product", "structure", "heads"):
        assert seen[island] == {torch.float32}, island
    for kernel in ("_softmax", "native_layer_norm"):
        assert kernels.seen[kernel] == {torch.float32}, kernel
    assert seen["representations"] == {getattr(torch, policy.representations), torch.float32}  # masks are float32
    assert types((out.m, out.z)) == {getattr(torch, policy.representations)}
    assert types((out.structure, out.recycled.x, out.distogram, out.plddt, out.pae, out.masked_msa)) == {torch.float32}
    assert getattr(torch, policy.products) in kernels.seen["mm"] | kernels.seen["addmm"] | kernels.seen["bmm"]


def test_the_row_count_of_a_deep_msa_is_exact() -> None:
    """Above 256, bfloat16 skips odd numbers: 301 rows would be counted as 300."""
    module = OuterProductMean(4, 5, 3)
    m, mask = torch.ones(301, 3, 4), torch.ones(301, 3)
    norms: list[Tensor] = []
    divide = module._rows
    module._rows = lambda a, norm, b: (norms.append(norm), divide(a, norm, b))[1]  # type: ignore[method-assign]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        module(m, mask)
    assert norms[0].unique().tolist() == [301.0]


@pytest.mark.parametrize("checkpointed", [0, 1])
def test_training_in_bf16_keeps_float32_weights_and_finite_gradients(store: Store, checkpointed: int) -> None:
    config = replace(FeatureConfig(), crop_size=24, max_msa_clusters=8, max_extra_msa=16)
    batch: TrainBatch = collate([make_sample(store.record(CHAINS[1]), config, 3, 2)])
    gradients = {}
    for policy in (FP32, BF16):
        model = model_under(policy)
        checkpoint_blocks(model, checkpointed)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=policy is BF16):
            loss = AlphaFoldLoss(model.config)(run_cycles(model, batch.cycles), batch.cycles[-1], batch.targets)
        assert types(tuple(loss)) == {torch.float32}
        loss.total.backward()
        assert types(tuple(model.parameters())) == {torch.float32}
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert all(bool(torch.isfinite(g).all()) and g.dtype == torch.float32 for g in found.values())
        gradients[policy.name] = found
    assert gradients["bf16"].keys() == gradients["fp32"].keys()
    ours, theirs = (torch.cat([g.flatten() for g in gradients[name].values()]) for name in ("bf16", "fp32"))
    assert float(torch.cosine_similarity(ours, theirs, dim=0)) > 0.98


def test_pure_keeps_the_islands_parameters() -> None:
    model = model_under(BF16_PURE)
    islands = {*model.structure.parameters(), *model.heads.parameters()}
    for module in model.modules():
        if isinstance(module, LayerNorm):
            islands.update(module.parameters())
        if isinstance(module, OuterProductMean):
            islands.update(module.linear_out.parameters())
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter in islands else torch.bfloat16), name
    with pytest.raises(FoldlineError, match="starts from float32 weights, but the trunk's are bfloat16; load them"):
        apply_precision(model, FP32)
    with pytest.raises(FoldlineError, match="the trunk's are float64"):
        apply_precision(network(tiny()), BF16)


def test_policies_have_names_and_say_what_they_do() -> None:
    assert [find_policy(name) for name in ("fp32", "bf16", "bf16-pure")] == list(POLICIES.values())
    with pytest.raises(FoldlineError, match="precision 'fp16' is none of fp32, bf16, bf16-pure"):
        find_policy("fp16")
    first, *lines = describe(BF16)
    assert first == "precision bf16"
    said = {line[:-8].strip(): line[-8:] for line in lines}
    assert said.pop("trunk: matrix products") == "bfloat16"
    assert said.pop("trunk: parameters").strip() == said.pop("trunk: MSA and pair representations").strip() == "float32"
    assert said.keys() == set(ISLANDS)
    assert {dtype.strip() for dtype in said.values()} == {"float32"}
