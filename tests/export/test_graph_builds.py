"""TensorRT-RTX reads the graphs with the types that stand in them; the full trunk becomes a real engine. Small ones: test_tensorrt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foldline.data_store.config import FeatureConfig
from foldline.export.graphs import graph_path, write_graphs
from foldline.export.profiles import Profile, bucket_profiles
from foldline.export.stages import Stage, stages
from foldline.export.tensorrt.backend import load, new_logger
from foldline.export.tensorrt.builder import parse
from foldline.model.alphafold import AlphaFold
from foldline.model.config import model_1_ptm
from foldline.tests.export.cases import model_of

pytest.importorskip("tensorrt_rtx", reason="the package tensorrt_rtx (extra [tensorrt-rtx]) is not installed")

GraphsOf = Callable[[str, str], tuple[AlphaFold, Path]]
HALVES = {"fp32": "FLOAT", "bf16": "BF16", "fp16": "HALF"}


def layers(network: Any) -> Counter[tuple[str, str]]:
    """How many layers of each kind work on each floating type, counted by the type of their first input."""
    kinds: Counter[tuple[str, str]] = Counter()
    for layer in (network.get_layer(i) for i in range(network.num_layers)):
        if layer.num_inputs and layer.get_input(0) is not None:
            kinds[layer.type.name, layer.get_input(0).dtype.name] += 1
    return kinds


def build(trt: Any, builder: Any, network: Any, stage: Stage, profile: Profile) -> bytes:
    """An engine for SM 8.9, which a machine without a GPU builds as well."""
    settings = builder.create_builder_config()
    settings.clear_flag(trt.BuilderFlag.TF32)
    settings.num_compute_capabilities = 1
    settings.set_compute_capability(trt.ComputeCapability.SM89, 0)
    shapes = builder.create_optimization_profile()
    for name, schema in stage.inputs.items():
        shapes.set_shape(name, *profile.shapes(schema.dims))
    settings.add_optimization_profile(shapes)
    return bytes(builder.build_serialized_network(network, settings) or b"")


@pytest.mark.parametrize("precision", HALVES)
def test_the_trunk_is_read_with_its_types(precision: str, graphs_of: GraphsOf) -> None:
    model, folder = graphs_of("small", precision)
    stage = next(stage for stage in stages(model.config) if stage.name == "evoformer")
    trt = load("tensorrt_rtx")
    _builder, network = parse(trt, "tensorrt_rtx", graph_path(folder, stage.name), new_logger(trt))
    found, half = layers(network), HALVES[precision]
    assert found["SOFTMAX", "FLOAT"] == 4, "softmax is not in float32, or was fused away"
    assert found["NORMALIZATION", "FLOAT"] == 12
    assert not [kind for kind in found if kind[0] in ("SOFTMAX", "NORMALIZATION", "REDUCE") and kind[1] != "FLOAT"]
    assert {kind[1] for kind in found if kind[0] == "ACTIVATION"} == {half}
    products = {kind[1]: count for kind, count in found.items() if kind[0] == "MATRIX_MULTIPLY"}
    assert products == ({"BF16": 52, "FLOAT": 3} if precision == "bf16" else {"FLOAT": 55})  # of fp16 between casts, to add up in float32
    assert (found["CAST", "HALF"] > 2 * 52) == (precision == "fp16")


@pytest.mark.slow
def test_the_full_trunk_is_built(tmp_path: Path) -> None:
    """All 48 blocks and the extra-MSA stack of model_1_ptm in bfloat16, for 256 residues with the alignments of initial training."""
    model = model_of(model_1_ptm())
    write_graphs(model, tmp_path, "bf16")
    trt = load("tensorrt_rtx")
    (profile,) = bucket_profiles((256,), FeatureConfig(max_msa_clusters=124, max_extra_msa=1024, max_templates=4))
    stacks = {"extra": model.extra_msa_stack, "evoformer": model.evoformer}
    for stage in stages(model.config):
        if stage.name in stacks:
            logger = new_logger(trt)
            builder, network = parse(trt, "tensorrt_rtx", graph_path(tmp_path, stage.name), logger)
            assert layers(network)["SOFTMAX", "FLOAT"] == 4 * len(stacks[stage.name].blocks)
            plan = build(trt, builder, network, stage, profile)
            assert len(plan) > 2 * sum(p.numel() for p in stacks[stage.name].parameters()), logger.reason()  # bytes: 2 or 4 a weight
