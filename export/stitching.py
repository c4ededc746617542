"""Traced pieces -> one graph per stage: blocks of a stack come from one trace, weights have their parameters' names."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import onnx
import torch
from onnx import TensorProto, helper

from ..data_store.types import FieldSchema
from ..model.alphafold import AlphaFold
from .graph_types import make_explicit
from .pieces import Piece, tensor_schema
from .plugins import DOMAIN, DOMAIN_VERSION, plugin_nodes
from .stages import Stage, find_policy, tensor_dtype
from .tracing import SCOPE, Trace, trace

TYPES = {"float32": TensorProto.FLOAT, "bfloat16": TensorProto.BFLOAT16, "float16": TensorProto.FLOAT16, "int64": TensorProto.INT64}
IR_VERSION = 9  # of files; ONNX Runtime 1.16 and TensorRT 10 read it


class Stitcher:
    """Makes stages' graphs of one network; a kind of piece is traced once for all of them.

    ``plugins``: triangle updates are nodes of ``plugins.DOMAIN``, where its kernels take them.
    """

    def __init__(self, model: AlphaFold, precision: str, opset: int, plugins: bool = False) -> None:
        products = find_policy(precision).products
        self._products = None if products == "float32" else getattr(torch, products)
        self._precision, self._opset, self._plugins = precision, opset, plugins
        self._schema = tensor_schema(model.config)
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._traces: dict[str, Trace] = {}

    def stage(self, stage: Stage, pieces: list[Piece]) -> onnx.ModelProto:
        """The graph of ``stage``. Its initialisers have name, type and shape, and no data yet."""
        nodes: list[onnx.NodeProto] = []
        weights: list[onnx.TensorProto] = []
        typed: list[onnx.ValueInfoProto] = []
        values = {name: name for name in stage.inputs}
        for number, piece in enumerate(pieces):
            traced = self._trace(piece)
            later = {name for other in pieces[number + 1 :] for name in other.outputs}
            made = {name: name if name in stage.outputs and name not in later else f"{piece.name}/{name}" for name in piece.outputs}
            rename = {f"in_{i}": values[name] for i, name in enumerate(piece.inputs)}
            rename |= {f"out_{i}": made[name] for i, name in enumerate(piece.outputs)}
            rename |= {name: self._parameter(piece, name) for name in traced.parameters}
            nodes += [_renamed(node, piece.name, rename) for node in traced.model.graph.node]
            typed += _plugin_results(traced.model.graph, piece.name, rename)
            types = {value.name: value.type.tensor_type for value in traced.model.graph.input}
            weights += [
                TensorProto(name=rename[name], data_type=types[name].elem_type, dims=[d.dim_value for d in types[name].shape.dim])
                for name in traced.parameters
            ]
            values |= made
        graph = helper.make_graph(nodes, stage.name, self._values(stage.inputs), self._values(stage.outputs), weights, value_info=typed)
        domains = [helper.make_opsetid("", self._opset), *([helper.make_opsetid(DOMAIN, DOMAIN_VERSION)] if typed else [])]
        return helper.make_model(graph, producer_name="foldline", opset_imports=domains, ir_version=IR_VERSION)

    def _trace(self, piece: Piece) -> Trace:
        if piece.kind not in self._traces:
            inputs = [self._schema[name] for name in piece.inputs]
            reduced = self._products if piece.trunk else None
            with plugin_nodes(piece.module, reduced or torch.float32) if self._plugins else nullcontext():
                traced = trace(piece.module, inputs, len(piece.outputs), reduced, self._opset)
            make_explicit(traced.model, traced.parameters)
            self._traces[piece.kind] = traced
        return self._traces[piece.kind]

    def _parameter(self, piece: Piece, name: str) -> str:
        """The network's name of a piece's parameter."""
        return self._names[id(piece.module.get_parameter(name))]

    def _values(self, schema: Mapping[str, FieldSchema]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, TYPES[tensor_dtype(name, field, self._precision)], field.dims)
            for name, field in schema.items()
        ]


def _plugin_results(graph: onnx.GraphProto, piece: str, rename: Mapping[str, str]) -> list[onnx.ValueInfoProto]:
    """Type and rank of what plugin nodes make, which no inference knows; lengths stay open."""
    made = {name for node in graph.node if node.domain == DOMAIN for name in node.output}
    return [
        helper.make_tensor_value_info(
            rename.get(value.name, _inside(piece, value.name)),
            value.type.tensor_type.elem_type,
            [None] * len(value.type.tensor_type.shape.dim),
        )
        for value in graph.value_info
        if value.name in made
    ]


def _renamed(node: onnx.NodeProto, piece: str, rename: Mapping[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.doc_string = ""
    copy.name = _inside(piece, node.name)
    copy.input[:] = [rename.get(name, _inside(piece, name)) for name in node.input]
    copy.output[:] = [rename.get(name, _inside(piece, name)) for name in node.output]
    return copy


def _inside(piece: str, name: str) -> str:
    return f"{piece}/{name.removeprefix(SCOPE)}" if name else ""  # "" is an optional input left out
