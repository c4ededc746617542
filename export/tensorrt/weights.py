"""The weights of stripped plans: one safetensors file for all stages and buckets, and what a refit puts in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import AttributeProto, TensorProto, numpy_helper
from torch import Tensor

from ...errors import FoldlineError
from ...model.weights import read_weights, save_weights
from ..graphs import graph_path

WEIGHTS_FILE = "weights.safetensors"
SHOWN = 5  # names that an error lists


def write_constants(graphs: Path, stages: Sequence[str], out: Path) -> dict[str, int]:
    """Write everything constant in the stages' graphs to ``WEIGHTS_FILE`` in ``out``; returns the number of parameters of each stage.

    Parameters stand under their own names, once for all stages; tables and scalars of a graph as "STAGE:NAME".
    """
    found: dict[str, Tensor] = {}
    counts = {}
    for stage in stages:
        parameters, constants = graph_constants(graph_path(graphs, stage))
        counts[stage] = len(parameters)
        found |= parameters | {f"{stage}:{name}": value for name, value in constants.items()}
    save_weights(out / WEIGHTS_FILE, found)
    return counts


def graph_constants(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters of a graph (initialisers in the file of weights beside it), and its other constants, by name, in the graph's types."""
    named = {tensor.name for tensor in onnx.load(path, load_external_data=False).graph.initializer if tensor.external_data}
    graph = onnx.load(path).graph
    values = {tensor.name: _tensor(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            values |= {name: _tensor(item.t) for name in node.output for item in node.attribute if item.type == AttributeProto.TENSOR}
    parameters = {name: value for name, value in values.items() if name in named}
    return parameters, {name: value for name, value in values.items() if name not in named}


def exchanged(current: Mapping[str, Tensor], new: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """``current`` (the contents of an engine's weights file) with every parameter replaced by ``new``'s, in the engine's types.

    Raises FoldlineError that names the parameters of the engine that ``new`` lacks, has in another shape, or whose values the engine's type
    cannot hold. What ``new`` has beyond them (heads that do not fold) is not needed.
    """
    parameters = {name: value for name, value in current.items() if ":" not in name}
    missing = [name for name in parameters if name not in new]
    misshapen = [
        f"{name} is {_dims(new[name])}, the engine has {_dims(value)}"
        for name, value in parameters.items()
        if name in new and new[name].shape != value.shape
    ]
    if missing or misshapen:
        parts = [f"{len(names)} {kind}: {_listed(names)}" for kind, names in (("missing", missing), ("misshapen", misshapen)) if names]
        raise FoldlineError(f"{where} does not fit this engine; {'; '.join(parts)}; nothing was changed: give weights of the same network")
    typed = {name: new[name].to(value.dtype) for name, value in parameters.items()}
    beyond = [name for name, value in typed.items() if not bool(value.isfinite().all())]
    if beyond:
        raise FoldlineError(
            f"{where}: values of {_listed(beyond)} are not finite in the engine's type ({typed[beyond[0]].dtype}); "
            "nothing was changed: export with precision bf16 or fp32"
        )
    return dict(current) | typed


def assign(
    prototypes: Mapping[str, tuple[torch.dtype | None, int]], values: Mapping[str, Tensor], stage: str, parameters: int, where: str
) -> dict[str, Tensor]:
    """Name of a plan's weights -> the tensor to put there. ``prototypes``: name -> (type, number of values) that the plan asks for.

    Weights of which ``values`` knows nothing are left out: the plan is asked afterwards whether it misses them. Raises FoldlineError for
    another type or size, and where the plan takes fewer than the stage's ``parameters``: the others would stay as they were.
    """
    chosen = {name: values.get(f"{stage}:{name}", values.get(name)) for name in prototypes}
    taken = {name: value.contiguous() for name, value in chosen.items() if value is not None}
    for name, value in taken.items():
        dtype, count = prototypes[name]
        if (dtype, count) != (value.dtype, value.numel()):
            raise FoldlineError(
                f"{where}: stage '{stage}' wants {count} of {dtype} for '{name}', the weights have {value.numel()} of {value.dtype}; "
                "build the engine again"
            )
    found = sum(name in values and f"{stage}:{name}" not in values for name in taken)
    if found != parameters:
        raise FoldlineError(
            f"{where}: stage '{stage}' has {parameters} parameters, and the plan takes {found} of them, so that others would keep other "
            "values; build the engine again, with weights mode 'fixed' if this comes back"
        )
    return taken


def replace_weights(folder: Path, new: Path, out: Path) -> Path:
    """Write the engine's weights file with the parameters of ``new`` into ``out``; see ``exchanged``."""
    current, _ = read_weights(folder / WEIGHTS_FILE)
    tensors, metadata = read_weights(new)
    save_weights(out / WEIGHTS_FILE, exchanged(current, tensors, str(new)), metadata)
    return out / WEIGHTS_FILE


def _tensor(proto: TensorProto) -> Tensor:
    """A constant in the type that engines hold it in: float64, which they do not know, becomes float32 in their parsers too."""
    array = numpy_helper.to_array(proto)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    value = torch.from_numpy(array.copy())
    return value.float() if value.dtype == torch.float64 else value


def _dims(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
