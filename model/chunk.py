"""Chunking: the same results from a lower peak of memory, switched on a built model from outside.

A chunked module cuts its work along a dimension whose slices do not depend on each other (rows of an attention, rows of a pair
tensor) and runs the slices one after another. The Python loop fixes the number of slices, so export the un-chunked model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import FoldlineError


class Chunked(nn.Module):
    """A module whose forward may run in slices of ``chunk_size``; None = all at once."""

    chunk_size: int | None = None


def set_chunk_size(model: nn.Module, size: int | None) -> int:
    """Make every ``Chunked`` module of ``model`` work in slices of ``size`` rows (None: all at once); returns how many there are.

    Raises FoldlineError for a size below 1.
    """
    if size is not None and size < 1:
        raise FoldlineError(f"chunk size {size} is below 1; give a positive number of rows, or None to switch chunking off")
    modules = [module for module in model.modules() if isinstance(module, Chunked)]
    for module in modules:
        module.chunk_size = size
    return len(modules)


def in_chunks(function: Callable[..., Tensor], size: int | None, dim: int, *arguments: tuple[Tensor | None, int]) -> Tensor:
    """``function(*tensors)`` computed slice by slice and joined along ``dim`` of the result.

    Each argument is (tensor or None, its dimension to slice, negative). A tensor that is broadcast along that dimension (size 1, or
    absent) goes whole to every slice.
    """
    if size is None:
        return function(*(tensor for tensor, _ in arguments))
    length = max(tensor.shape[along] for tensor, along in arguments if tensor is not None and tensor.dim() >= -along)
    parts = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        parts.append(function(*(_slice(tensor, along, start, stop) for tensor, along in arguments)))
    return torch.cat(parts, dim)


def _slice(tensor: Tensor | None, along: int, start: int, stop: int) -> Tensor | None:
    if tensor is None or tensor.dim() < -along or tensor.shape[along] == 1:
        return tensor
    return tensor.narrow(along, start, stop - start)
