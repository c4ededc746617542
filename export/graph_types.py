"""Types of a traced graph made explicit: weights in the type they are multiplied in, sums in float32."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper, numpy_helper

HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
PRODUCTS = ("MatMul", "Gemm")
SUMS = ("ReduceSum", "ReduceMean")
LAYOUT = ("Transpose", "Reshape", "Unsqueeze", "Squeeze")
_NARROW = "/Narrow"  # ends the names of casts behind widened sums


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Name -> element type of every value of the graph, by ONNX's strict inference, which also checks every node's types."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for part in (graph.input, graph.value_info, graph.output) for value in part}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def make_explicit(model: onnx.ModelProto, parameters: Sequence[str]) -> None:
    """Type a traced graph whose inputs named ``parameters`` are weights; its results change by rounding of sums alone."""
    narrow_weights(model.graph, parameters)
    widen_sums(model)
    keep_totals(model.graph)
    drop_idle_casts(model)


def narrow_weights(graph: onnx.GraphProto, parameters: Sequence[str]) -> None:
    """Weights that are read through casts to one half precision become inputs of that type, and the casts go.

    What a weight is multiplied in is then its type in the file. A weight that anything reads in float32 stays as it is.
    """
    readers = readers_of(graph)
    replaced: dict[str, str] = {}
    for value in graph.input:
        ends = _ends(value.name, readers) if value.name in parameters else []
        targets = {cast_target(node) for node in ends}
        if len(targets) == 1 and targets <= set(HALF):
            value.type.tensor_type.elem_type = targets.pop()
            replaced |= {node.output[0]: node.input[0] for node in ends}
    _bypass(graph, replaced)


def _ends(name: str, readers: Mapping[str, list[onnx.NodeProto]]) -> list[onnx.NodeProto]:
    """The nodes that read a value, behind those that but rearrange it."""
    ends: list[onnx.NodeProto] = []
    for node in readers[name]:
        ends += _ends(node.output[0], readers) if node.op_type in LAYOUT else [node]
    return ends


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
        nodes += [node, helper.make_node("Cast", [node.output[0]], [narrow], f"{node.name}{_NARROW}", to=half)]
    _set_nodes(model.graph, nodes)


def keep_totals(graph: onnx.GraphProto) -> None:
    """A total that is but rearranged before a layer norm widens it is not narrowed on the way.

    It is where float16 overflows: the products of triangle multiplication grow with the number of residues.
    """
    makers, readers = makers_of(graph), readers_of(graph)
    kept: dict[str, str] = {}
    for node in graph.node:
        before = makers.get(node.input[0]) if node.op_type == "LayerNormalization" else None
        if before is None or cast_target(before) != TensorProto.FLOAT:
            continue
        before = makers.get(before.input[0])
        while before is not None and before.op_type in LAYOUT and len(readers[before.output[0]]) == 1:
            before = makers.get(before.input[0])
        if before is not None and before.name.endswith(_NARROW) and len(readers[before.output[0]]) == 1:
            kept[before.output[0]] = before.input[0]
    _bypass(graph, kept)


def drop_idle_casts(model: onnx.ModelProto) -> None:
    """Casts to the type that a value has go, and constants come in the type that they are cast to; casts that make an output stay."""
    types, made = value_types(model), {value.name for value in model.graph.output}
    makers = makers_of(model.graph)
    idle: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type != "Cast" or node.output[0] in made:
            continue
        maker = makers.get(node.input[0])
        if cast_target(node) == types[node.input[0]]:
            idle[node.output[0]] = node.input[0]
        elif maker is not None and maker.op_type == "Constant":
            value = numpy_helper.to_array(helper.get_attribute_value(maker.attribute[0]))
            cast = numpy_helper.from_array(value.astype(helper.tensor_dtype_to_np_dtype(cast_target(node))))
            node.CopyFrom(helper.make_node("Constant", [], [node.output[0]], node.name, value=cast))
    _bypass(model.graph, idle)
    read = readers_of(model.graph).keys() | made
    _set_nodes(model.graph, [node for node in model.graph.node if read & set(node.output)])


def cast_target(node: onnx.NodeProto) -> int:
    """The type that a Cast gives; UNDEFINED for any other node."""
    return int(helper.get_attribute_value(node.attribute[0])) if node.op_type == "Cast" else int(TensorProto.UNDEFINED)


def makers_of(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Name of a value -> the node that makes it."""
    return {name: node for node in graph.node for name in node.output}


def readers_of(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Name of a value -> the nodes that read it; no nodes for any other name."""
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            readers[name].append(node)
    return readers


def _bypass(graph: onnx.GraphProto, replaced: Mapping[str, str]) -> None:
    """Remove the nodes that make the keys of ``replaced``; their readers read the values instead."""
    kept = [node for node in graph.node if not replaced.keys() & set(node.output)]
    for node in kept:
        for place, name in enumerate(node.input):
            while name in replaced:
                name = replaced[name]
            node.input[place] = name
    _set_nodes(graph, kept)


def _set_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]  # they live in the list that is cleared
    del graph.node[:]
    graph.node.extend(copies)
