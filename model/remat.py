"""Activation checkpointing: stacks recompute their blocks in the backward pass instead of keeping what is inside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import FoldlineError

State = tuple[Tensor, ...]


# Runs function(*arguments) now and again in the backward pass. Every tensor is an argument of its own: DeepSpeed's looks no deeper.
Recompute = Callable[..., Any]


def recompute(function: Callable[..., State], *arguments: Tensor) -> State:
    """torch's recomputation, the variant that hooks saved tensors."""
    return checkpoint(function, *arguments, use_reentrant=False)  # type: ignore[no-any-return]


class Blocks(nn.ModuleList):
    """The blocks of a stack, run in order. A block is called with (*state, *context) and returns the new state, a tensor or a tuple."""

    checkpoint_every: int = 0
    recompute: Recompute = staticmethod(recompute)
    state_dtype: torch.dtype | None = None  # what the state is added up in; None: whatever comes in

    def run(self, state: State, *context: Tensor) -> State:
        """Run all blocks; while training, segments of ``checkpoint_every`` blocks are recomputed in the backward pass."""
        blocks = list(self)
        if self.state_dtype is not None:
            state = tuple(tensor.to(self.state_dtype) for tensor in state)
        if not (self.checkpoint_every and self.training and torch.is_grad_enabled()):
            return _run(blocks, state, context)
        for start in range(0, len(blocks), self.checkpoint_every):
            result = self.recompute(partial(_run_flat, blocks[start : start + self.checkpoint_every], len(state)), *state, *context)
            state = result if isinstance(result, tuple) else (result,)
        return state


def _run_flat(blocks: Sequence[nn.Module], width: int, *tensors: Tensor) -> State:
    """``_run`` on the state's ``width`` tensors followed by the context's."""
    return _run(blocks, tensors[:width], tensors[width:])


def _run(blocks: Sequence[nn.Module], state: State, context: State) -> State:
    for block in blocks:
        result = block(*state, *context)
        state = result if isinstance(result, tuple) else (result,)
    return state


def checkpoint_blocks(model: nn.Module, every: int, by: Recompute = recompute) -> int:
    """Checkpoint segments of ``every`` blocks in each stack of ``model`` (0: none), ``by`` torch or another; returns the number of stacks.

    Has no effect in eval mode or without gradients. Raises FoldlineError for a negative ``every``.
    """
    if every < 0:
        raise FoldlineError(f"checkpointing every {every} blocks is not possible; give 0 (off) or a positive number of blocks")
    stacks = [module for module in model.modules() if isinstance(module, Blocks)]
    for stack in stacks:
        stack.checkpoint_every = every
        stack.recompute = by
    return len(stacks)
