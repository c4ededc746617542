"""The installed cuEquivariance against our nodes and their definitions. Its library needs an NVIDIA driver and PyTorch for CUDA to load."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from foldline.data_store.types import FieldSchema
from foldline.export.graphs import OPSET
from foldline.export.plugins import ALL_INPUTS, ATTENTION, DOMAIN, IEEE, MULTIPLICATION, plugin_nodes
from foldline.export.stitching import IR_VERSION
from foldline.export.tracing import trace
from foldline.model.triangle import TriangleAttention, TriangleMultiplication
from foldline.tests.export.plugin_definitions import ATTENTION_TEXT, LEFT_AND_RIGHT, multiplication_text

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Above 100 residues the package takes its kernels, which are for CUDA; below, its own PyTorch code, whatever the device.
C, N, B, H, D = 32, 128 if DEVICE == "cuda" else 11, 2, 4, 8
DIRECTIONS = tuple(LEFT_AND_RIGHT)
Arrays = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def package() -> Any:
    try:
        return importlib.import_module("cuequivariance_ops_torch")
    except (ImportError, OSError) as error:
        pytest.skip(f"cuequivariance_ops_torch does not load here: {error}")


@pytest.fixture(scope="module")
def translated(package: Any) -> dict[str, onnx.NodeProto]:
    """Op type -> the node that the package's own translation makes."""
    table = importlib.import_module("cuequivariance_ops_torch.onnx").op_table
    operators = getattr(torch.ops, DOMAIN)
    return {name: table[getattr(operators, name).default].to_function_proto().node[0] for name in (ATTENTION, MULTIPLICATION)}


@pytest.mark.parametrize("module", [TriangleAttention(C, D, H, "ending"), TriangleMultiplication(C, C, "incoming")])
def test_nodes_are_those_of_its_translations(module: torch.nn.Module, translated: Mapping[str, onnx.NodeProto]) -> None:
    with plugin_nodes(module, torch.float32):
        pair, mask = (FieldSchema("float", ("N_res", "N_res", *rest)) for rest in ((C,), ()))
        (ours,) = (node for node in trace(module.eval(), (pair, mask), 1, None, OPSET).model.graph.node if node.domain)
    theirs = translated[ours.op_type]
    assert (ours.op_type, ours.domain) == (theirs.op_type, theirs.domain)
    assert (len(ours.input), len(ours.output)) == (len(theirs.input), len(theirs.output))
    types = {item.name: item.type for item in ours.attribute}
    assert types == {item.name: item.type for item in theirs.attribute}


def test_our_definition_of_attention_is_its_own(package: Any) -> None:
    random = np.random.default_rng(0)
    q, k, v = (random.normal(size=(B, N, H, N, D)).astype(np.float32) for _ in range(3))
    bias, mask = random.normal(size=(B, 1, H, N, N)).astype(np.float32), random.random((B, N, 1, 1, N)) < 0.6
    mask[0, 3] = False  # a row that sees nothing: all keys alike
    given = {"q": q, "k": k, "v": v, "bias": bias, "mask": mask}
    scale = D**-0.5
    ours = run_definition(ATTENTION, ATTENTION_TEXT, given, scale=scale)
    theirs = package.triangle_attention(*(torch.from_numpy(array).to(DEVICE) for array in given.values()), scale=scale)
    np.testing.assert_allclose(ours, theirs.cpu().numpy(), atol=1e-5)
    np.testing.assert_allclose(ours[0, 3, :, 0], v[0, 3].mean(-2), atol=1e-5)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_our_definition_of_multiplication_is_its_own(direction: str, package: Any) -> None:
    random = np.random.default_rng(1)
    shapes = {"x": (B, N, N, C), "norm_in_weight": (C,), "norm_in_bias": (C,)}
    shapes |= {f"{part}_in_{kind}": (2 * C, *rest) for part in "pg" for kind, rest in (("weight", (C,)), ("bias", ()))}
    shapes |= {"norm_out_weight": (C,), "norm_out_bias": (C,)}
    shapes |= {f"{part}_out_{kind}": (C, *rest) for part in "pg" for kind, rest in (("weight", (C,)), ("bias", ()))}
    tensors = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    mask = (random.random((B, N, N)) < 0.7).astype(np.float32)
    names = ["x", "norm_in", "p_in", "g_in", "norm_out", "p_out", "g_out"]
    ordered = {key: tensors[key] for name in names for key in ([name] if name == "x" else [f"{name}_weight", f"{name}_bias"])}
    given = {"x": ordered.pop("x"), "mask": mask} | ordered
    text = multiplication_text(direction)
    fixed = {"direction": direction, "eps": 1e-5, "precision": IEEE, "valid_optional_inputs": ALL_INPUTS}
    ours = run_definition(f"{MULTIPLICATION}_{direction}", text, given, **fixed)
    moved = [torch.from_numpy(array).to(DEVICE) for array in given.values()]
    theirs = getattr(torch.ops, DOMAIN).tri_mul_update(*moved, direction, 1e-5, IEEE, ALL_INPUTS)
    np.testing.assert_allclose(ours, theirs.cpu().numpy(), rtol=1e-4, atol=1e-4)


def run_definition(name: str, text: str, given: Arrays, **attributes: Any) -> np.ndarray:
    """The definition ``text`` alone on ONNX Runtime."""
    node = helper.make_node(name, list(given), ["made"], domain=DOMAIN, plugin_namespace=DOMAIN, **attributes)
    inputs = [helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape) for key, array in given.items()]
    outputs = [helper.make_tensor_value_info("made", TensorProto.FLOAT, None)]
    model = helper.make_model(
        helper.make_graph([node], name, inputs, outputs),
        functions=[onnx.parser.parse_function(text)],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        ir_version=IR_VERSION,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(given))[0])
