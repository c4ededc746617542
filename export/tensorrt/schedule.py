"""Where the tensors of a pass lie in device memory: one arena, places shared by tensors that are never needed at the same time.

Pure arithmetic over the stages; nothing here touches a device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..profiles import round_up
from ..stages import Stage

ALIGNMENT = 512  # bytes; TensorRT asks for 256


@dataclass(frozen=True)
class Slot:
    """A tensor's place: ``offset`` and ``bytes`` in the arena, and the stages (by number) from ``first`` to ``last`` that need it kept.

    ``first`` -1: it is filled before the pass. ``last`` = number of stages: it is read after the pass.
    """

    offset: int
    bytes: int
    first: int
    last: int

    def meets(self, other: Slot) -> bool:
        """Whether both are needed at some same time."""
        return self.first <= other.last and other.first <= self.last

    def overlaps(self, other: Slot) -> bool:
        """Whether both hold some same byte."""
        return self.offset < other.offset + other.bytes and other.offset < self.offset + self.bytes


@dataclass(frozen=True)
class Schedule:
    """The slot of every tensor of a pass by name, and the arena's size in bytes."""

    slots: Mapping[str, Slot]
    arena: int


def make_schedule(
    stages: Sequence[Stage], sizes: Mapping[str, int], results: Sequence[str], recycled: Mapping[str, str] | None = None
) -> Schedule:
    """Place every tensor of ``stages``, run in this order. ``sizes``: name -> bytes.

    ``results`` stay until after the pass. ``recycled`` maps an input to the output that the next pass finds in its place: both get one
    slot, so nothing is copied between passes. Raises ValueError where a tensor is made twice, where a result is never made, and where a
    recycled input would be overwritten before its last reader is done.
    """
    shared = recycled or {}
    first, last = _lifetimes(stages)
    made = {name for stage in stages for name in stage.outputs}
    for name in results:
        if name not in made:
            raise ValueError(f"no stage makes the result '{name}'")
        last[name] = len(stages)
    for before, after in shared.items():
        if after not in made or first[before] != -1 or sizes[before] != sizes[after]:
            raise ValueError(f"'{after}' cannot take the place of '{before}': it is not made, or they differ in size")
        if last[before] >= first[after]:
            raise ValueError(f"stage '{stages[first[after]].name}' would overwrite '{before}' while it is read")
        first[after], last[after] = -1, len(stages)
    slots = _pack({name: (sizes[name], first[name], last[name]) for name in first if name not in shared})
    slots |= {before: slots[after] for before, after in shared.items()}
    return Schedule(slots, max((slot.offset + slot.bytes for slot in slots.values()), default=0))


def shared_scratch(needs: Mapping[str, int]) -> int:
    """Bytes of the one scratch buffer for stages that run after each other: the largest of their needs."""
    return round_up(max(needs.values(), default=0), ALIGNMENT)


def _lifetimes(stages: Sequence[Stage]) -> tuple[dict[str, int], dict[str, int]]:
    """Name -> the stage that makes it (-1: given), and name -> the last stage that reads or makes it."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for number, stage in enumerate(stages):
        for name in stage.inputs:
            first.setdefault(name, -1)
            last[name] = number
        for name in stage.outputs:
            if name in first:
                raise ValueError(f"stage '{stage.name}' makes '{name}', which is there already")
            first[name] = last[name] = number
    return first, last


def _pack(wanted: Mapping[str, tuple[int, int, int]]) -> dict[str, Slot]:
    """Largest first, each at the lowest offset that is free for as long as it lives."""
    slots: dict[str, Slot] = {}
    for name, (size, first, last) in sorted(wanted.items(), key=lambda item: (-item[1][0], item[0])):
        size = round_up(size, ALIGNMENT)
        slot = Slot(0, size, first, last)
        for other in sorted((other for other in slots.values() if other.meets(slot)), key=lambda other: other.offset):
            if slot.overlaps(other):
                slot = Slot(other.offset + other.bytes, size, first, last)
        slots[name] = slot
    return slots
