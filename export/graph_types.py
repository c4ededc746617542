"""Types of a traced graph made explicit: weights in the type they are multiplied in, sums in float32."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx
from onnx import TensorProto, helper

HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
PRODUCTS = ("MatMul", "Gemm")
SUMS = ("ReduceSum", "ReduceMean")


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Name -> element type of every value of the graph, by ONNX's strict inference, which also checks every node's types."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for part in (graph.input, graph.value_info, graph.output) for value in part}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def make_explicit(model: onnx.ModelProto, parameters: Sequence[str]) -> None:
    """Type a graph that was traced in half precision: ``narrow_weights``, then ``widen_sums``."""
    narrow_weights(model.graph, parameters)
    widen_sums(model)


def narrow_weights(graph: onnx.GraphProto, parameters: Collection[str]) -> None:
    """Weights that are read through casts to one half precision become inputs of that type, and the casts go.

    What a weight is multiplied in is then its type in the file. A weight that anything reads in float32 stays as it is.
    """
    readers: dict[str, list[onnx.NodeProto]] = {name: [] for name in parameters}
    for node in graph.node:
        for name in set(node.input) & readers.keys():
            readers[name].append(node)
    replaced: dict[str, str] = {}
    for value in graph.input:
        targets = {_target(node) for node in readers.get(value.name, ())}
        if len(targets) == 1 and targets <= set(HALF):
            value.type.tensor_type.elem_type = targets.pop()
            replaced |= {node.output[0]: value.name for node in readers[value.name]}
    kept = [node for node in graph.node if node.output[0] not in replaced]
    for node in kept:
        node.input[:] = [replaced.get(name, name) for name in node.input]
    _set_nodes(graph, kept)


def widen_sums(model: onnx.ModelProto) -> None:
    """Products of float16 and sums of either half precision become float32 between casts: terms stay half, totals are float32.

    TensorRT takes the three nodes for a float16 product with float32 accumulation; a bare float16 product may add up in float16, which
    overflows and rounds away over deep alignments. Products of bfloat16 add up in float32 as they are. Other engines do as the nodes say.
    """
    types = value_types(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        half = types[node.output[0]]
        if not ((half in HALF and node.op_type in SUMS) or (half == TensorProto.FLOAT16 and node.op_type in PRODUCTS)):
            nodes.append(node)
            continue
        for place, name in enumerate(node.input):
            if types[name] == half:
                wide = f"{node.output[0]}_term_{place}"
                nodes.append(helper.make_node("Cast", [name], [wide], f"{node.name}/Widen_{place}", to=TensorProto.FLOAT))
                node.input[place] = wide
        narrow = node.output[0]
        node.output[0] = f"{narrow}_total"
        nodes += [node, helper.make_node("Cast", [node.output[0]], [narrow], f"{node.name}/Narrow", to=half)]
    _set_nodes(model.graph, nodes)


def _target(node: onnx.NodeProto) -> int:
    return int(helper.get_attribute_value(node.attribute[0])) if node.op_type == "Cast" else TensorProto.UNDEFINED


def _set_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]  # they live in the list that is cleared
    del graph.node[:]
    graph.node.extend(copies)
