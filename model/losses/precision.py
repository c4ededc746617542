"""Losses run in float32 or wider, whatever the network ran in: half-precision distances would decide bins and clamps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from ..primitives import widen

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Turn autocast off around ``function`` and widen its half-precision arguments (also within NamedTuples) to float32.

    Float64 stays float64.
    """

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(_devices((args, tuple(kwargs.values()))))
        with torch.autocast(device, enabled=False):
            return function(*map(_widen, args), **{name: _widen(value) for name, value in kwargs.items()})

    return wrapper


def _widen(value: Any) -> Any:
    if isinstance(value, tuple):
        fields = tuple(_widen(field) for field in value)
        return type(value)(*fields) if hasattr(value, "_fields") else fields
    return widen(value) if isinstance(value, Tensor) else value


def _devices(values: tuple[object, ...]) -> Iterator[str]:
    for value in values:
        if isinstance(value, Tensor):
            yield value.device.type
        elif isinstance(value, tuple):
            yield from _devices(value)
