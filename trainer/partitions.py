"""The fp32 master weights as each ZeRO stage lays them out: this rank's share, and the way back to named tensors.

Stage 0 keeps whole parameters. Stages 1 and 2 keep one slice of a flat buffer per parameter group, into which the parameters are
views. Stage 3 keeps, per sub-group, the concatenated slices of its parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


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
