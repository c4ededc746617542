"""One piece of the network -> an ONNX graph whose weights are inputs: nothing is folded, merged or renamed on the way.

Torch's tracer merges initialisers of equal value and folds what it can. Weights that come in as inputs are out of its reach, so the
graph does not depend on their values, and no copy of them is made.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from ..data_store.types import FieldSchema
from .stages import run_piece

# All different, so that no two can be confused; N_seq counts rows of which N_clust are clusters.
TRACE_SIZES = {"N_res": 7, "N_clust": 5, "N_extra": 6, "N_templ": 2, "N_seq": 9}


SCOPE = "/module/"  # what the tracer puts before the names of nodes inside the module


@dataclass(frozen=True)
class Trace:
    """A traced piece: ``model.graph`` has the inputs and outputs asked for, and among its inputs the ``parameters`` that it reads."""

    model: onnx.ModelProto
    parameters: tuple[str, ...]


def trace(
    module: nn.Module,
    inputs: Sequence[FieldSchema],
    outputs: int,
    dtype: torch.dtype | None,
    opset: int,
    sizes: Mapping[str, int] = TRACE_SIZES,
) -> Trace:
    """Trace ``module`` on inputs of these schemas with matrix products in ``dtype`` (None: as they are), on the CPU.

    Inputs are named ``in_0``, ``in_1``, ..., outputs ``out_0``, ..., parameters as in ``module``.
    """
    parameters = dict(module.named_parameters())
    given = [f"in_{i}" for i in range(len(inputs))]
    made = [f"out_{i}" for i in range(outputs)]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns about shapes read as numbers; parity at other sizes is tested instead
        torch.onnx.export(
            _Functional(module, tuple(parameters), dtype).eval(),
            (*(parameter.detach() for parameter in parameters.values()), *(_example(schema, sizes) for schema in inputs)),
            str(Path(folder) / "piece.onnx"),
            dynamo=False,
            opset_version=opset,
            do_constant_folding=False,
            keep_initializers_as_inputs=False,
            input_names=[*parameters, *given],
            output_names=made,
            dynamic_axes={name: _axes(schema) for name, schema in zip(given, inputs, strict=True)},
        )
        model = onnx.load(Path(folder) / "piece.onnx")
    _number(model.graph)
    read = {name for node in model.graph.node for name in node.input}
    return Trace(model, tuple(name for name in parameters if name in read))


class _Functional(nn.Module):
    """A module as a function of its parameters and its inputs."""

    def __init__(self, module: nn.Module, names: tuple[str, ...], dtype: torch.dtype | None) -> None:
        super().__init__()
        self.module, self.names, self.dtype = module, names, dtype

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        parameters, inputs = tensors[: len(self.names)], tensors[len(self.names) :]
        with _parameters_replaced(self.module, dict(zip(self.names, parameters, strict=True))):
            return run_piece(self.module, list(inputs), self.dtype)


@contextmanager
def _parameters_replaced(module: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """``module`` with other tensors for its parameters (``torch.func.functional_call`` refuses to be traced)."""
    kept = dict(module.named_parameters())
    try:
        _put(module, values)
        yield
    finally:
        _put(module, kept)


def _put(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        owner, _, attribute = name.rpartition(".")
        module.get_submodule(owner)._parameters[attribute] = value  # type: ignore[assignment]


def _number(graph: onnx.GraphProto) -> None:
    """Names that the tracer counts up over everything it has seen are counted over what is in the graph: equal pieces, equal bytes."""
    names: dict[str, str] = {}
    for number, node in enumerate(graph.node):
        node.name = node.name if node.name.startswith(SCOPE) else f"{SCOPE}{node.op_type}_{number}"
        names |= {name: f"{SCOPE}value_{number}" for name in node.output if name.startswith("onnx::") or name.isdigit()}
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _example(schema: FieldSchema, sizes: Mapping[str, int]) -> Tensor:
    shape = [d if isinstance(d, int) else sizes[d] for d in schema.dims]
    return torch.ones(shape, dtype=torch.int64 if schema.kind == "int" else torch.float32)


def _axes(schema: FieldSchema) -> dict[int, str]:
    return {axis: dim for axis, dim in enumerate(schema.dims) if isinstance(dim, str)}
