"""Types in the graphs: what multiplies in half, what adds up in float32, and no value that changes its type without being asked to."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from foldline.data_store.types import ChainRecord
from foldline.export.graph import output_schema
from foldline.export.graph_types import LAYOUT, cast_target, makers_of, readers_of, value_types
from foldline.export.graphs import graph_path
from foldline.export.stages import Stage, stages
from foldline.export.weight_file import write_weights
from foldline.model.alphafold import AlphaFold
from foldline.tests.export.cases import CONFIGS
from foldline.tests.export.stage_chain import RunStage, chain, onnxruntime_stages, real_feeds, torch_stages

GraphsOf = Callable[[str, str], tuple[AlphaFold, Path]]
FLOAT = TensorProto.FLOAT
HALVES = {"bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16}
FLOATS = {FLOAT, *HALVES.values(), TensorProto.DOUBLE}
REDUCED = ("embed", "templates", "extra", "evoformer")  # stages of the trunk; the others are float32 throughout
OUTER_PRODUCT = re.compile(r"outer_product_mean/(?!linear_[ab]/)")  # the sums over sequences and the output layer
TRIANGLE_FACTOR = re.compile(r"triangle_multiplication_\w+\.linear_[ab]_p\.")
TRIANGLE = re.compile(r"triangle_multiplication_\w+/MatMul$")  # grows with the number of residues, and is normalised right behind
# What may read a half value that was widened: the residual streams (Add), islands, and the way there.
WIDE_READERS = {"Add", "LayerNormalization", "Where", "Softmax", "MatMul", "Gemm", "ReduceSum", "Mul", *LAYOUT}
ISLANDS = ("LayerNormalization", "Softmax", "ReduceSum", "ReduceMean", "ReduceProd", "Div", "Sqrt", "Greater", "Less", "Softplus")
ALWAYS_HALF = ("Sigmoid", "Relu")  # of the trunk


def graphs(graphs_of: GraphsOf, config: str, precision: str) -> dict[str, onnx.ModelProto]:
    model, folder = graphs_of(config, precision)
    return {s.name: onnx.load(graph_path(folder, s.name), load_external_data=False) for s in stages(model.config)}


@pytest.mark.parametrize("precision", ["fp32", *HALVES])
@pytest.mark.parametrize("config", CONFIGS)
def test_every_product_sum_softmax_and_norm_has_its_type(config: str, precision: str, graphs_of: GraphsOf) -> None:
    counted = dict.fromkeys(("product in half", "product in float32", "island"), 0)
    for stage, proto in graphs(graphs_of, config, precision).items():
        types, makers, readers = value_types(proto), makers_of(proto.graph), readers_of(proto.graph)
        half = HALVES.get(precision, FLOAT) if stage in REDUCED else FLOAT
        for node in proto.graph.node:
            ends = {types[name] for name in (*node.input, *node.output) if name and types[name] in FLOATS}
            assert TensorProto.DOUBLE not in ends, node.name
            if node.op_type in ("MatMul", "Gemm"):
                wide = bool(OUTER_PRODUCT.search(node.name))
                if wide or half == FLOAT:
                    assert ends == {FLOAT}, node.name
                    counted["product in float32"] += 1
                elif half == TensorProto.BFLOAT16:
                    assert ends == {half}, node.name
                    counted["product in half"] += 1
                else:
                    assert ends == {FLOAT}, node.name
                    assert {types[makers[name].input[0]] for name in node.input} == {half}, f"{node.name}: a factor is wider than stored"
                    (reader,) = readers[node.output[0]]
                    kept = TRIANGLE.search(node.name) is not None
                    assert (cast_target(reader) == half) != kept, f"{node.name}: narrowed or not, wrongly"
                    counted["product in half"] += 1
            elif node.op_type in ISLANDS and ends:
                assert ends == {FLOAT}, node.name
                counted["island"] += 1
            elif node.op_type in ALWAYS_HALF and stage in REDUCED:
                assert ends == {half}, f"{node.name}: a float32 value crept into the trunk's element-wise work"
    assert counted["island"] > 10
    assert counted["product in float32"] > 10
    assert (counted["product in half"] > 50) == (precision != "fp32")


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("config", CONFIGS)
def test_no_value_is_promoted_silently(config: str, precision: str, graphs_of: GraphsOf) -> None:
    """ONNX nodes never mix types, so each change of type is a Cast: every one from half to float32 must have a reason."""
    for stage, proto in graphs(graphs_of, config, precision).items():
        types, readers = value_types(proto), readers_of(proto.graph)
        made = {value.name for value in proto.graph.output}
        for node in proto.graph.node:
            ends = {types[name] for name in (*node.input, *node.output) if name and types[name] in FLOATS}
            assert len(ends) <= 1 or node.op_type == "Cast", f"{node.name} mixes {ends}"
            if node.op_type != "Cast" or types[node.input[0]] not in HALVES.values():
                continue
            assert stage in REDUCED, f"{node.name}: half inside an island"
            assert cast_target(node) == FLOAT, node.name
            for reader in readers[node.output[0]]:
                assert reader.op_type in WIDE_READERS, f"{node.name} feeds {reader.name}"
                assert reader.op_type != "Mul" or OUTER_PRODUCT.search(reader.name), f"{reader.name} multiplies in float32"
            assert readers[node.output[0]] or node.output[0] in made, f"{node.name} has no reader"


@pytest.mark.parametrize("precision", ["fp32", *HALVES])
@pytest.mark.parametrize("config", CONFIGS)
def test_weights_are_stored_in_the_type_they_are_used_in(config: str, precision: str, graphs_of: GraphsOf) -> None:
    found = {t.name: t.data_type for proto in graphs(graphs_of, config, precision).values() for t in proto.graph.initializer}
    for name, kind in found.items():
        island = name.startswith(("structure.", "heads.")) or "layer_norm" in name or "outer_product_mean.linear_out" in name
        assert kind == (FLOAT if island else HALVES.get(precision, FLOAT)), name
    assert len(set(found.values())) == (1 if precision == "fp32" else 2)


@pytest.mark.parametrize("precision", HALVES)
def test_constants_fit_their_types(precision: str, graphs_of: GraphsOf) -> None:
    masks = 0
    for proto in graphs(graphs_of, "small", precision).values():
        for node in proto.graph.node:
            if node.op_type == "Constant":
                tensor = helper.get_attribute_value(node.attribute[0])
                value = numpy_helper.to_array(tensor)
                if tensor.data_type in HALVES.values():
                    assert np.isfinite(value.astype(np.float32)).all(), node.name
                    assert np.abs(value.astype(np.float32)).max(initial=0) < 3e4, f"{node.name}: a mask in half precision"
                elif tensor.data_type == FLOAT and (value == -1e9).any():
                    masks += 1
    assert masks > 5, "attention is not masked by -1e9 in float32"


class GatherElements(OpRun):
    """The reference implementation refuses negative axes whose other sizes differ."""

    op_domain = ""

    def _run(self, data: np.ndarray, indices: np.ndarray, axis: int = 0) -> tuple[np.ndarray]:
        return (np.take_along_axis(data, indices, axis),)


def reference_stages(folder: Path) -> RunStage:
    """The graphs by ONNX's reference implementation: numpy, each node in the types that it has."""
    evaluators: dict[str, Any] = {}

    def run(stage: Stage, given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if stage.name not in evaluators:
            evaluators[stage.name] = ReferenceEvaluator(str(graph_path(folder, stage.name)), new_ops=[GatherElements])
        return list(evaluators[stage.name].run(list(stage.outputs), dict(given)))

    return run


ENGINES = {("bf16", "reference"): reference_stages, ("fp16", "reference"): reference_stages, ("fp16", "onnxruntime"): onnxruntime_stages}
SMALL, NO_TEMPLATES, DEEP = (8, 16, 2), (3, 1, 0), (124, 600, 1)  # clusters, extra rows, templates
ROUNDED = [
    pytest.param(*key, *sizes, marks=[pytest.mark.slow] if sizes == DEEP and key[1] == "reference" else [])  # numpy takes long over them
    for key in ENGINES
    for sizes in (SMALL, NO_TEMPLATES, DEEP)
]


@pytest.mark.parametrize(("precision", "engine", "clusters", "extra", "templates"), ROUNDED)
def test_half_graphs_round_as_torch_does(
    precision: str, engine: str, clusters: int, extra: int, templates: int, graphs_of: GraphsOf, records: dict[str, ChainRecord]
) -> None:
    """Two engines cannot round alike, so the measure is how far PyTorch itself, in the same policy, is from float32."""
    model, folder = graphs_of("small", precision)
    feeds = real_feeds(records["1ajj_A"], model.config, clusters, extra, templates)
    exact = chain(model.config, feeds, torch_stages(model))
    torchs = chain(model.config, feeds, torch_stages(model, precision))
    ours = chain(model.config, feeds, ENGINES[precision, engine](folder))
    for name in output_schema(model.config):
        drift, error = rms(torchs[name] - exact[name]), rms(ours[name] - exact[name])
        assert error <= 1.5 * drift, f"{name}: {error:.2g} from float32, torch {drift:.2g}"
        assert (drift > 0) == (name != "atom_mask"), "the policy changes nothing: it was not tested"


def test_fp16_products_that_grow_with_the_chain_do_not_overflow(
    graphs_of: GraphsOf, records: dict[str, ChainRecord], tmp_path: Path
) -> None:
    """Weights under which the triangle products exceed 65504, where PyTorch's own float16 gives no numbers any more."""
    model, folder = graphs_of("small", "fp16")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    large = AlphaFold(model.config).eval()
    scaled = {name: value * 100 if TRIANGLE_FACTOR.search(name) else value for name, value in model.state_dict().items()}
    large.load_state_dict(scaled)
    write_weights(tmp_path, scaled)
    feeds = real_feeds(records["1ajj_A"], model.config, 3, 2, 0)
    exact = chain(model.config, feeds, torch_stages(large))
    assert not np.isfinite(chain(model.config, feeds, torch_stages(large, "fp16"))["next_z"]).all(), "nothing overflows: it was not tested"
    ours = chain(model.config, feeds, reference_stages(tmp_path))
    assert rms(ours["next_z"] - exact["next_z"]) < 0.05 * rms(exact["next_z"])


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.square(difference.astype(np.float64)).mean()))
