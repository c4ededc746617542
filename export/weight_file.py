"""One file of weights beside all graphs of a precision: written by the places that the graphs name, so that it can be replaced alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
import torch
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo
from torch import Tensor

from ..errors import FoldlineError

WEIGHTS_FILE = "weights.bin"
ALIGNMENT = 64  # bytes: what engines want of a tensor's address
_TORCH_TYPES = {TensorProto.FLOAT: torch.float32, TensorProto.BFLOAT16: torch.bfloat16, TensorProto.FLOAT16: torch.float16}


def place_weights(graphs: Iterable[onnx.GraphProto], order: Iterable[str]) -> None:
    """Give every initialiser of ``graphs`` its place in the file, in the order of their names in ``order``; data is not touched."""
    tensors = {tensor.name: tensor for graph in graphs for tensor in graph.initializer}
    offset = 0
    for name in order:
        if name not in tensors:
            continue
        tensor = tensors[name]
        length = _bytes(tensor)
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (("location", WEIGHTS_FILE), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        offset += -(-length // ALIGNMENT) * ALIGNMENT


def write_weights(graphs: Path, weights: Mapping[str, Tensor], out: Path | None = None) -> Path:
    """Write the weights file that the graphs in folder ``graphs`` read, from a network's tensors; beside them unless ``out`` is given.

    Nothing else of the graphs depends on the weights, so this is all that a refit needs. Raises FoldlineError when a tensor is missing or
    misshapen, or when the graphs' type cannot hold a value; an existing file is then left as it is.
    """
    out = graphs / WEIGHTS_FILE if out is None else out
    partial = out.with_name(f".{out.name}.partial")
    try:
        with partial.open("wb") as file:
            for offset, tensor in sorted(_places(graphs)):
                file.seek(offset)
                file.write(_data(tensor, weights))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return out


def _places(graphs: Path) -> list[tuple[int, TensorProto]]:
    places = []
    for path in sorted(graphs.glob("*.onnx")):
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                places.append((ExternalDataInfo(tensor).offset or 0, tensor))
    return places


def _data(tensor: TensorProto, weights: Mapping[str, Tensor]) -> bytes:
    if tensor.name not in weights or tuple(weights[tensor.name].shape) != tuple(tensor.dims):
        found = tuple(weights[tensor.name].shape) if tensor.name in weights else "missing"
        raise FoldlineError(
            f"weight '{tensor.name}' is {found}, the graphs were made for {tuple(tensor.dims)}; give weights of the same network"
        )
    value = weights[tensor.name].detach().cpu()
    typed = value.to(_TORCH_TYPES[tensor.data_type]).contiguous()
    if not bool(typed.isfinite().all()):
        kind = TensorProto.DataType.Name(tensor.data_type).lower()
        raise FoldlineError(f"weight '{tensor.name}' has values that are not finite in {kind}; export with precision bf16 or fp32")
    return typed.view(torch.uint8).numpy().tobytes() if typed.dim() else typed.reshape(1).view(torch.uint8).numpy().tobytes()


def _bytes(tensor: TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count * _TORCH_TYPES[tensor.data_type].itemsize
