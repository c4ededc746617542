"""Weights -> ONNX: one pass of the network, float32, every length dynamic, initialisers named as the parameters."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from ..data_store.types import FieldSchema
from ..errors import FoldlineError
from ..model.alphafold import AlphaFold
from .graph import FoldPass, input_schema, output_schema

PREFIX = "model."  # FoldPass's name for the network it wraps
TRACE_SIZES = {"N_res": 7, "N_clust": 5, "N_extra": 6, "N_templ": 2}  # all different, so that no two can be confused
MAX_PROTOBUF = 2_000_000_000  # bytes; one ONNX file cannot hold more


def export_onnx(model: AlphaFold, path: Path, opset: int = 18) -> onnx.ModelProto:
    """Trace one pass of ``model``, check it, write it to ``path``.

    Weights are not folded into other constants, so a graph differs between two sets of weights in its initialisers only and engines can be
    refitted by parameter name. Raises FoldlineError when the weights do not fit into one file.
    """
    size = sum(p.numel() * 4 for p in model.parameters())
    if size > MAX_PROTOBUF:
        raise FoldlineError(f"the weights take {size / 1e9:.1f} GB; one ONNX file holds at most 2 GB: use a smaller preset")
    _trace(model, path, opset)
    proto = onnx.load(path)
    _name_initialisers(proto, model)
    _check_inputs(proto, model)
    _fix_output_shapes(proto, output_schema(model.config))
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)
    return proto


def initialisers(path: Path) -> dict[str, np.ndarray]:
    """Name -> value of the graph's initialisers: the parameters and the residue tables."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def _trace(model: AlphaFold, path: Path, opset: int) -> None:
    """Trace a copy whose parameters all differ: the tracer merges initialisers of equal value, and fresh biases are all zero."""
    twin = FoldPass(copy.deepcopy(model)).float().cpu().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator))
    inputs, outputs = input_schema(model.config), output_schema(model.config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about shapes read as numbers; parity at other sizes is tested instead
        torch.onnx.export(
            twin,
            tuple(_example(schema) for schema in inputs.values()),
            str(path),
            dynamo=False,
            opset_version=opset,
            do_constant_folding=False,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: _axes(schema) for name, schema in (inputs | outputs).items()},
        )


def _example(schema: FieldSchema) -> torch.Tensor:
    shape = [d if isinstance(d, int) else TRACE_SIZES[d] for d in schema.dims]
    return torch.ones(shape, dtype=torch.int64 if schema.kind == "int" else torch.float32)


def _axes(schema: FieldSchema) -> dict[int, str]:
    return {axis: dim for axis, dim in enumerate(schema.dims) if isinstance(dim, str)}


def _name_initialisers(proto: onnx.ModelProto, model: AlphaFold) -> None:
    """Give initialisers their parameters' names and the real values in place of the tracing ones."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    parameters = dict(model.named_parameters())
    for tensor in proto.graph.initializer:
        name = tensor.name.removeprefix(PREFIX)
        if name in parameters:
            value = parameters[name].detach().float().cpu().numpy()
            if tuple(tensor.dims) != value.shape:
                raise RuntimeError(f"initialiser {name} has shape {tuple(tensor.dims)}, the parameter {value.shape}")
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
        if name in tensors:
            tensor.name = name
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            if name.startswith(PREFIX) and name.removeprefix(PREFIX) in tensors:
                node.input[place] = name.removeprefix(PREFIX)


def _check_inputs(proto: onnx.ModelProto, model: AlphaFold) -> None:
    """The graph takes the inputs of the schema and reads every one of them."""
    read = {name for node in proto.graph.node for name in node.input}
    idle = [value.name for value in proto.graph.input if value.name not in read]
    if idle:
        raise RuntimeError(f"the network does not read the inputs {idle}; graph.input_schema must leave them out")
    declared = [value.name for value in proto.graph.input]
    if declared != list(input_schema(model.config)):
        raise RuntimeError(f"the traced graph has inputs {declared}")


def _fix_output_shapes(proto: onnx.ModelProto, outputs: dict[str, FieldSchema]) -> None:
    """Write the schema's dimensions: the tracer forgets some of the fixed ones."""
    for value in proto.graph.output:
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for size in outputs[value.name].dims:
            shape.dim.add(**{"dim_value" if isinstance(size, int) else "dim_param": size})
