"""The pass as a chain of calls of few functions: what a compiler is given, so that the 48 blocks of a stack cost it one.

A function takes parameters as arguments. Compiled, it holds no weight, and every block of a stack runs by the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..model.alphafold import AlphaFold
from .graph import output_schema
from .pieces import Piece, stage_pieces, tensor_schema
from .stages import Stage, run_piece, trunk_type


@dataclass(frozen=True)
class Call:
    """One call of the function ``code``: ``stage`` names what it reads and makes, ``parameters`` the network's parameters it is given.

    Calls of one ``code`` run the same operations on tensors and parameters of the same sizes, in this order.
    """

    code: str
    stage: Stage
    parameters: tuple[str, ...]
    pieces: tuple[Piece, ...]


def calls_of(model: AlphaFold) -> tuple[Call, ...]:
    """The calls of one pass in running order: one for each block, and one for all pieces between two stacks."""
    groups: list[list[Piece]] = []
    for piece in (piece for pieces in stage_pieces(model).values() for piece in pieces):
        if groups and not _is_block(piece) and not _is_block(groups[-1][-1]):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    schema = tensor_schema(model.config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    calls = []
    for number, group in enumerate(groups):
        later = {name for other in groups[number + 1 :] for piece in other for name in piece.inputs} | set(output_schema(model.config))
        made = dict.fromkeys(name for piece in group for name in piece.outputs)
        kept = made if _is_block(group[0]) else [name for name in made if name in later]
        stage = Stage(group[0].name, {name: schema[name] for name in _read(group)}, {name: schema[name] for name in kept})
        parameters = tuple(names[id(parameter)] for piece in group for parameter in piece.module.parameters())
        calls.append(Call(group[0].kind, stage, parameters, tuple(group)))
    return tuple(calls)


class Segment(nn.Module):
    """The function of a call: forward takes the tensors of ``call.stage.inputs`` and then the parameters, and returns the outputs.

    It holds no parameters of its own.
    """

    def __init__(self, call: Call, model: AlphaFold) -> None:
        super().__init__()
        self.call = call
        self._names = [tuple(name for name, _ in piece.module.named_parameters()) for piece in call.pieces]
        self._types = [trunk_type(piece, model) for piece in call.pieces]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Runs the pieces in order; each reads and makes named tensors."""
        stage = self.call.stage
        known = dict(zip(stage.inputs, tensors[: len(stage.inputs)], strict=True))
        rest = iter(tensors[len(stage.inputs) :])
        for piece, names, dtype in zip(self.call.pieces, self._names, self._types, strict=True):
            bound = _Bound(piece.module, {name: next(rest) for name in names})
            known |= zip(piece.outputs, run_piece(bound, [known[name] for name in piece.inputs], dtype), strict=True)
        return tuple(known[name] for name in stage.outputs)


class _Bound(nn.Module):
    """A module with other tensors for its parameters."""

    _of: tuple[nn.Module, dict[str, Tensor]]

    def __init__(self, module: nn.Module, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        object.__setattr__(self, "_of", (module, dict(values)))  # past nn.Module, which would take the module's parameters for its own

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        module, values = self._of
        result: Tensor | tuple[Tensor, ...] = torch.func.functional_call(module, values, tensors)
        return result


def _is_block(piece: Piece) -> bool:
    return piece.kind != piece.name


def _read(group: Sequence[Piece]) -> list[str]:
    """What the group reads and does not make before."""
    made: set[str] = set()
    read: dict[str, None] = {}
    for piece in group:
        read |= dict.fromkeys(name for name in piece.inputs if name not in made)
        made |= set(piece.outputs)
    return list(read)
