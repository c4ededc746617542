"""Cropping to a window of residues and padding to fixed sizes (AF2 supplement 1.2.8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from ..types import FeatureBatch, Targets, schema_of

B = TypeVar("B", FeatureBatch, Targets)


def crop_window(length: int, size: int, clamped: bool, rng: np.random.Generator) -> slice:
    """The residues of a training sample: a window of ``size``, or all when the chain is not longer.

    With the clamped loss every start is equally likely; without it starts near the N terminus are preferred, as in AF2.
    """
    room = max(0, length - size)
    last = room if clamped else room - int(rng.integers(0, room + 1))
    start = int(rng.integers(0, last + 1))
    return slice(start, min(start + size, length))


def pad(batch: B, sizes: Mapping[str, int]) -> B:
    """Fill every dimension that ``sizes`` names (e.g. ``{"N_res": 256}``) with zeros up to its size; masks so become 0 there.

    Dimensions are those of the batch's schema. A dimension that is larger than its size raises ValueError.
    """
    padded = {}
    for name, schema in schema_of(type(batch)).items():
        value = getattr(batch, name)
        missing = [sizes.get(str(dim), have) - have for dim, have in zip(schema.dims, value.shape, strict=True)]
        padded[name] = np.pad(value, [(0, m) for m in missing]) if any(missing) else value
    return type(batch)(**padded)
