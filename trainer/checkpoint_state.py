"""A run's state as named pieces of parameters, the same on the disk for every ZeRO stage and number of ranks.

Each rank writes what it owns: ``KIND:PARAMETER:START`` is a run of consecutive values of one parameter, beginning at its element START.
Whoever reads joins pieces: a rank at another stage or among another number of ranks copies the values that it owns now, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor

from ..errors import FoldlineError
from .ema import Ema
from .partitions import Piece, master_partitions, pieces, whole_shapes

WEIGHT, AVERAGE, FIRST, SECOND = KINDS = ("weight", "ema", "exp_avg", "exp_avg_sq")
BYTES = 4 * (len(KINDS) + 2)  # per parameter: float32, the whole model and EMA besides the shares


@dataclass(frozen=True)
class Snapshot:
    """This rank's share of one moment's state, copied to the host."""

    pieces: tuple[tuple[Piece, ...], ...]  # by partition
    values: tuple[dict[str, Tensor], ...]  # by partition: kind -> flat values
    shapes: dict[str, tuple[int, ...]]  # of every whole parameter
    buffers: dict[str, Tensor]
    updates: int  # that Adam made
    skipped: int  # steps that moved nothing

    def named(self) -> dict[str, Tensor]:
        """The share as it is written."""
        return {
            f"{kind}:{piece.name}:{piece.start}": flat[piece.offset : piece.offset + piece.length]
            for place, values in zip(self.pieces, self.values, strict=True)
            for kind, flat in values.items()
            for piece in place
        }

    @property
    def checkpoint_bytes(self) -> int:
        """What the checkpoint of all ranks takes on the disk, about 1 MB of headers and texts included."""
        numbers = sum(torch.Size(shape).numel() for shape in self.shapes.values())
        return BYTES * numbers + 2 * sum(b.nbytes for b in self.buffers.values()) + (1 << 20)


@torch.no_grad()
def take_snapshot(engine: Any, stage: int, ema: Ema) -> Snapshot:
    """Copy this rank's share to the host; training may go on once this returns. ``engine`` is DeepSpeed's."""
    layout = pieces(engine, stage)
    if stage == 0:  # every rank has all of it: each saves some
        layout = [part if i % dist.get_world_size() == dist.get_rank() else [] for i, part in enumerate(layout)]
    held, values, updates = [], [], 0
    for place, master, average in zip(layout, master_partitions(engine, stage), ema.averages, strict=True):
        moments = engine.basic_optimizer.state.get(master, {})
        updates = max(updates, int(moments["step"]) if moments else 0)
        if not place:
            continue
        flats = {WEIGHT: master, AVERAGE: average}
        flats |= {kind: moments[kind] if moments else torch.zeros_like(master) for kind in (FIRST, SECOND)}
        held.append(tuple(place))
        values.append({kind: flat.detach().reshape(-1).to("cpu", copy=True) for kind, flat in flats.items()})
    buffers = {name: buffer.detach().to("cpu", copy=True) for name, buffer in engine.module.named_buffers()}
    return Snapshot(tuple(held), tuple(values), whole_shapes(engine, stage), buffers, updates, int(engine.skipped_steps))


class _Stored(NamedTuple):
    start: int
    length: int
    key: str
    file: Any


class Shares:
    """The written shares of all ranks, read piece by piece."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._index: dict[tuple[str, str], list[_Stored]] = {}
        for path in files:
            file = safe_open(path, framework="pt")
            for key in file.keys():  # noqa: SIM118 (not a dict)
                kind, name, start = key.rsplit(":", 2)
                stored = _Stored(int(start), file.get_slice(key).get_shape()[0], key, file)
                self._index.setdefault((kind, name), []).append(stored)

    def read(self, kind: str, name: str, start: int, out: Tensor) -> None:
        """Fill the flat ``out`` with values of a parameter from its element ``start`` on. FoldlineError where some were not saved."""
        end, filled = start + len(out), 0
        for stored in self._index.get((kind, name), ()):
            first, last = max(start, stored.start), min(end, stored.start + stored.length)
            if first < last:
                out[first - start : last - start] = stored.file.get_slice(stored.key)[first - stored.start : last - stored.start]
                filled += last - first
        if filled != len(out):
            raise FoldlineError(f"the checkpoint holds {filled} of the {len(out)} values {kind} of {name} from element {start} on")

    def whole(self, kind: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Whole tensors by parameter name."""
        found = {name: torch.empty(shape) for name, shape in shapes.items()}
        for name, tensor in found.items():
            self.read(kind, name, 0, tensor.view(-1))
        return found


@torch.no_grad()
def restore(engine: Any, stage: int, ema: Ema, shares: Shares, updates: int) -> None:
    """Put Adam's moments and the EMA into an engine that was initialized with the saved weights, whatever wrote them."""
    for place, master, average in zip(pieces(engine, stage), master_partitions(engine, stage), ema.averages, strict=True):
        _fill(average, place, AVERAGE, shares)
        if updates:
            moments = {kind: torch.zeros_like(master) for kind in (FIRST, SECOND)}
            for kind, flat in moments.items():
                _fill(flat, place, kind, shares)
            engine.basic_optimizer.state[master] = {"step": torch.tensor(float(updates)), **moments}


def _fill(target: Tensor, place: Sequence[Piece], kind: str, shares: Shares) -> None:
    host = torch.zeros(target.numel())
    for piece in place:
        shares.read(kind, piece.name, piece.start, host[piece.offset : piece.offset + piece.length])
    target.copy_(host.view(target.shape))
