"""The fp32 master weights as each ZeRO stage lays them out: this rank's share, and the way back to named tensors.

Stage 0 keeps whole parameters. Stages 1 and 2 keep one slice of a flat buffer per parameter group, into which the parameters are
views. Stage 3 keeps, per sub-group, the concatenated slices of its parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Piece(NamedTuple):
    """``length`` values at ``offset`` of a flat partition: those of the parameter ``name`` from its element ``start`` on."""

    name: str
    start: int
    offset: int
    length: int


def pieces(engine: Any, stage: int) -> list[list[Piece]]:
    """What of which parameter lies where in each of ``master_partitions``; padding is in none. No communication."""
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    if stage == 0:
        return [[Piece(name, 0, 0, parameter.numel())] for parameter, name in names.items() if parameter.requires_grad]
    if stage == 3:
        return [_slices(parameters, names) for parameters in engine.optimizer.fp16_groups]
    optimizer = engine.optimizer
    partitions = optimizer.single_partition_of_fp32_groups
    layout = zip(optimizer.bit16_groups, optimizer.bit16_groups_flat, partitions, strict=True)
    return [_windows(parameters, buffer, len(mine), names) for parameters, buffer, mine in layout]


def whole_shapes(engine: Any, stage: int) -> dict[str, tuple[int, ...]]:
    """The shape of every trained parameter, which ZeRO 3 keeps in pieces."""
    trained = [(name, p) for name, p in engine.module.named_parameters() if p.requires_grad]
    return {name: tuple(p.ds_shape if stage == 3 else p.shape) for name, p in trained}


def _windows(parameters: Sequence[nn.Parameter], buffer: Tensor, width: int, names: dict[nn.Parameter, str]) -> list[Piece]:
    """What of the parameters, views into ``buffer``, lies in this rank's ``width`` values of it."""
    begin = dist.get_rank() * width
    found = []
    for parameter in parameters:
        place = (parameter.data_ptr() - buffer.data_ptr()) // buffer.element_size()
        first, last = max(place, begin), min(place + parameter.numel(), begin + width)
        if first < last:
            found.append(Piece(names[parameter], first - place, first - begin, last - first))
    return found


def _slices(parameters: Sequence[Any], names: dict[nn.Parameter, str]) -> list[Piece]:
    """This rank's slice of each parameter, one behind the other; the last rank's may be padded or empty."""
    found, offset = [], 0
    for parameter in parameters:
        width = parameter.ds_tensor.ds_numel
        start = dist.get_rank() * width
        length = min(width, parameter.ds_numel - start)
        if length > 0:
            found.append(Piece(names[parameter], start, offset, length))
        offset += width
    return found


def master_partitions(engine: Any, stage: int) -> list[Tensor]:
    """The fp32 tensors that this rank's optimizer steps on, in a fixed order. ``engine`` is DeepSpeed's."""
    if stage == 3:
        return list(engine.optimizer.fp32_partitioned_groups_flat)
    if stage in (1, 2):
        return list(engine.optimizer.single_partition_of_fp32_groups)
    return [p for p in engine.module.parameters() if p.requires_grad]


@torch.no_grad()
def gather(engine: Any, stage: int, partitions: Sequence[Tensor]) -> dict[str, Tensor]:
    """Whole tensors on the CPU by parameter name, from values laid out like ``master_partitions``. Collective under ZeRO."""
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    if stage == 0:
        pairs = zip((p for p in names if p.requires_grad), partitions, strict=True)
        return {names[p]: value.detach().cpu().clone() for p, value in pairs}
    if stage == 3:
        return _gather_sliced(engine.optimizer.fp16_groups, partitions, names)
    optimizer = engine.optimizer
    return _gather_flat(optimizer.bit16_groups, optimizer.bit16_groups_flat, partitions, names)


def _gather_flat(groups: Any, buffers: Sequence[Tensor], partitions: Sequence[Tensor], names: dict[nn.Parameter, str]) -> dict[str, Tensor]:
    """Join the ranks' slices of each buffer; a parameter's place in it is read from where its own view begins."""
    found: dict[str, Tensor] = {}
    for parameters, buffer, mine in zip(groups, buffers, partitions, strict=True):
        whole = torch.cat(_all_gather(mine, buffer.device)).cpu()
        for parameter in parameters:
            start = (parameter.data_ptr() - buffer.data_ptr()) // buffer.element_size()
            found[names[parameter]] = whole[start : start + parameter.numel()].view(parameter.shape).clone()
    return found


def _gather_sliced(groups: Any, partitions: Sequence[Tensor], names: dict[nn.Parameter, str]) -> dict[str, Tensor]:
    """Join each parameter's slices; the last slice may be padded."""
    found: dict[str, Tensor] = {}
    for parameters, mine in zip(groups, partitions, strict=True):
        slices = [piece.cpu() for piece in _all_gather(mine, parameters[0].device)]
        start = 0
        for parameter in parameters:
            width = parameter.ds_tensor.ds_numel
            whole = torch.cat([piece[start : start + width] for piece in slices])
            found[names[parameter]] = whole[: parameter.ds_numel].view(parameter.ds_shape).clone()
            start += width
    return found


def _all_gather(mine: Tensor, device: torch.device) -> list[Tensor]:
    """Every rank's ``mine`` on ``device``, where the ranks can talk; an optimizer on the host keeps its share there."""
    mine = mine.detach().to(device).contiguous()
    pieces = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, mine)
    return pieces
