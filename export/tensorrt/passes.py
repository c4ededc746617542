"""A pass through stage engines on one device: one arena for all tensors, one scratch buffer, recycled tensors that never move.

What runs a stage is behind ``StageExecutor``, so that all of this also runs without a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ...data_store.types import FieldSchema
from ...model.config import ModelConfig
from ..graph import RECYCLED, border_schema, output_schema
from ..profiles import Profile
from ..runners import Features, feature_schema
from ..stages import Stage, stages
from .schedule import make_schedule, shared_scratch

TYPES = {"int": torch.int64, "float": torch.float32}
Shapes = Mapping[str, tuple[int, ...]]


class StageExecutor(Protocol):
    """What runs one stage. Calls come in this order whenever sizes or places change: ``prepare``, ``bind``, ``enqueue``."""

    def prepare(self, shapes: Shapes) -> int:
        """Take the shapes of the stage's inputs; returns the bytes of scratch memory that it then needs."""
        ...

    def bind(self, tensors: Mapping[str, Tensor], scratch: Tensor) -> None:
        """Take the places of the stage's inputs, outputs and scratch memory."""
        ...

    def enqueue(self) -> None:
        """Start the stage behind what the current stream already does."""
        ...


class Scratch:
    """Device memory that stages use one after the other; it only ever grows, and moves when it does."""

    def __init__(self, device: torch.device) -> None:
        self.memory = torch.empty(0, dtype=torch.uint8, device=device)

    def reserve(self, size: int) -> Tensor:
        """At least ``size`` bytes."""
        if size > self.memory.numel():
            self.memory = torch.empty(0, dtype=torch.uint8, device=self.memory.device)  # first give the old one back
            self.memory = torch.empty(size, dtype=torch.uint8, device=self.memory.device)
        return self.memory


class BucketPass:
    """The stages of one profile, and the arena that their tensors share; it is large enough for the profile's largest sizes."""

    def __init__(self, executors: Sequence[StageExecutor], config: ModelConfig, profile: Profile, scratch: Scratch) -> None:
        self.stages: tuple[Stage, ...] = stages(config)
        self._executors, self._config, self._scratch = tuple(executors), config, scratch
        self._schema = {name: field for name, field in border_schema(config).items() if self._used(name)}
        largest = {dim: high for dim, (_, high) in profile.limits.items()}
        sizes = {name: _bytes(field, largest) for name, field in self._schema.items()}
        results = list(output_schema(config))
        self.schedule = make_schedule(self.stages, sizes, results, RECYCLED)
        self._arena = torch.empty(self.schedule.arena, dtype=torch.uint8, device=scratch.memory.device)
        self._sizes: dict[str, int] = {}
        self._scratch_bytes = 0
        self._bound: tuple[object, ...] = ()

    def resize(self, sizes: Mapping[str, int]) -> tuple[object, ...]:
        """Make ready for a pass of ``sizes``; returns what a recorded pass depends on: sizes and addresses."""
        if sizes != self._sizes:
            self._sizes = {}  # a failure half-way leaves no sizes behind
            self._scratch_bytes = shared_scratch(
                {
                    stage.name: executor.prepare({name: _shape(self._schema[name], sizes) for name in stage.inputs})
                    for stage, executor in zip(self.stages, self._executors, strict=True)
                }
            )
            self._sizes, self._bound = dict(sizes), ()
        memory = self._scratch.reserve(self._scratch_bytes)
        places = (tuple(sorted(sizes.items())), self._arena.data_ptr(), memory.data_ptr())
        if places != self._bound:
            for stage, executor in zip(self.stages, self._executors, strict=True):
                executor.bind({name: self.tensor(name) for name in (*stage.inputs, *stage.outputs)}, memory)
            self._bound = places
        return places

    def upload(self, features: Features) -> None:
        """Copy the features in, zeros around them where the pass is larger."""
        for name in feature_schema(self._config):
            place, given = self.tensor(name), torch.from_numpy(features[name])
            if place.shape != given.shape:
                place.zero_()
            place[tuple(slice(size) for size in given.shape)].copy_(given)

    def recycle(self, previous: BucketPass | None) -> None:
        """Begin from zeros, from what this pass itself left (it is in place already), or from another bucket's."""
        for before, after in RECYCLED.items():
            if previous is None:
                self.tensor(before).zero_()
            elif previous is not self:
                self.tensor(before).copy_(previous.tensor(after))

    def enqueue(self) -> None:
        """Start all stages in order."""
        for executor in self._executors:
            executor.enqueue()

    def tensor(self, name: str) -> Tensor:
        """A tensor's place in the arena, in the shape of the current sizes."""
        field, slot = self._schema[name], self.schedule.slots[name]
        shape = _shape(field, self._sizes)
        dtype = TYPES[field.kind]
        count = torch.Size(shape).numel()
        return self._arena[slot.offset : slot.offset + count * dtype.itemsize].view(dtype).view(shape)

    def _used(self, name: str) -> bool:
        return any(name in stage.inputs or name in stage.outputs for stage in self.stages)


def _shape(field: FieldSchema, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else sizes[d] for d in field.dims)


def _bytes(field: FieldSchema, sizes: Mapping[str, int]) -> int:
    return torch.Size(_shape(field, sizes)).numel() * TYPES[field.kind].itemsize
