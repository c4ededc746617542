"""One row of a name table: which arrays of another code base are which tensors of ours, and how their axes are ordered.

Axes are written as words: ``"c h d"`` is an array of three axes, ``"(h d) c"`` one of two whose first runs over h and d.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """``theirs`` (axes ``their_axes``) and ``ours`` (axes ``our_axes``) hold the same numbers.

    Several names on a side are slices of the first of ``our_axes``, in order: two projections that one side keeps as one.
    ``ours`` with a ``*`` stands for one tensor per layer where ``theirs`` stacks ``layers`` of them in a leading axis.
    ``sizes`` gives the axes that cannot be read from a shape, such as the number of heads.
    """

    theirs: tuple[str, ...]
    their_axes: str
    ours: tuple[str, ...]
    our_axes: str
    sizes: Mapping[str, int]
    layers: int = 0

    def to_ours(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors, by name, from theirs."""
        stacked = [arrays[name] for name in self.theirs]
        found = {}
        for layer in range(max(self.layers, 1)):
            each = [array[layer] if self.layers else array for array in stacked]
            joined = torch.cat([rearrange(array, self.their_axes, self.our_axes, self.sizes) for array in each])
            for name, piece in zip(self.ours, joined.chunk(len(self.ours)), strict=True):
                found[name.replace("*", str(layer))] = piece.contiguous()
        return found

    def to_theirs(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their arrays, by name, from ours; works on meta tensors, which gives the shapes."""
        layers = []
        for layer in range(max(self.layers, 1)):
            joined = torch.cat([tensors[name.replace("*", str(layer))] for name in self.ours])
            layers.append([rearrange(p, self.our_axes, self.their_axes, self.sizes) for p in joined.chunk(len(self.theirs))])
        stacked = [torch.stack(each) if self.layers else each[0] for each in zip(*layers, strict=True)]
        return {name: array.contiguous() for name, array in zip(self.theirs, stacked, strict=True)}


def rearrange(array: Tensor, source: str, target: str, sizes: Mapping[str, int]) -> Tensor:
    """Reorder, split and merge axes: ``rearrange(w, "c h d", "(h d) c", {})``. One axis of each group may be missing from ``sizes``."""
    groups, goal = _parse(source), _parse(target)
    if array.dim() != len(groups):
        raise ValueError(f"{source!r} has {len(groups)} axes, the array {array.dim()}")
    if source == target:
        return array
    lengths = dict(zip(_flat(groups), _split(groups, array.shape, sizes), strict=True))
    order = [_flat(groups).index(axis) for axis in _flat(goal)]
    return array.reshape(tuple(lengths.values())).permute(order).reshape([prod(lengths[axis] for axis in group) for group in goal])


@cache
def _parse(pattern: str) -> list[list[str]]:
    return [token.strip("()").split() for token in re.findall(r"\([^)]*\)|\S+", pattern)]


def _flat(groups: Sequence[Sequence[str]]) -> list[str]:
    return [axis for group in groups for axis in group]


def _split(groups: Sequence[Sequence[str]], shape: Sequence[int], sizes: Mapping[str, int]) -> list[int]:
    """The length of every single axis; the unknown one of a group is what the known ones leave."""
    lengths = []
    for group, length in zip(groups, shape, strict=True):
        known = prod(sizes[axis] for axis in group if axis in sizes and len(group) > 1)
        lengths += [sizes[axis] if len(group) > 1 and axis in sizes else length // known for axis in group]
    return lengths
