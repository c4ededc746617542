"""What a step of a network costs, counted on fake tensors: sizes and kernels are exact, nothing is computed and no memory is taken.

A census notes every kernel and every storage from its making to its end, and the moments at which the blocks of a stack begin. Blocks of a
stack are alike, so a network with two blocks per stack tells what any number of them costs, under any recomputation (``remat.py``).
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from .remat import Blocks

COUNTED = 2  # blocks per stack in a network that is counted


class Kernel(NamedTuple):
    """One call: operations of its matrix product (0: none) and their type as torch names it, bytes read and written."""

    flops: int
    dtype: str
    bytes: int


Work = Counter[Kernel]


@dataclass
class Span:
    """From one moment to the next. ``stack`` and ``block`` say what began with it ("" and -1: the pass itself)."""

    stack: str
    block: int
    backward: bool
    live: int  # bytes at its beginning
    peak: int  # bytes at most
    work: Work = field(default_factory=Counter)


class Largest(NamedTuple):
    """The largest single tensor, and which kernel made it."""

    bytes: int
    shape: tuple[int, ...]
    kernel: str


class Census(TorchDispatchMode):
    """Follows all tensors made inside it; parameters and inputs, made before, do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.largest = Largest(0, (), "")
        self.spans = [Span("", -1, False, 0, 0)]
        self._storages: dict[int, weakref.ref[Any] | None] = {}

    def begin(self, stack: str, block: int, backward: bool) -> None:
        """A new span, unless it is the one that is open."""
        last = self.spans[-1]
        if (last.stack, last.block, last.backward) != (stack, block, backward):
            self.spans.append(Span(stack, block, backward, self.live, self.live))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if not made or func.namespace == "prim":
            return out
        aliases = any(result.alias_info is not None for result in func._schema.returns)
        for tensor in made:
            self._follow(tensor, 0 if aliases else tensor.untyped_storage().nbytes(), func)
        if not (aliases and not func._schema.is_mutable) and func.overloadpacket not in _FREE:
            self.spans[-1].work[_kernel(func, args, kwargs or {}, out, made)] += 1
        return out

    def _follow(self, tensor: Tensor, size: int, func: Any) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return

        def gone(_: Any) -> None:
            del self._storages[key]
            self.live -= size

        self._storages[key] = weakref.ref(storage, gone)
        self.live += size
        span = self.spans[-1]
        span.peak = max(span.peak, self.live)
        if size > self.largest.bytes:
            self.largest = Largest(size, tuple(tensor.shape), func.overloadpacket.__name__)


_FREE = {torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.new_empty, torch.ops.aten.empty_strided, torch.ops.aten.detach}


def _kernel(func: Any, args: Any, kwargs: Mapping[str, Any], out: Any, made: list[Tensor]) -> Kernel:
    read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    moved = sum(min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in (*read, *made))
    formula = flop_registry.get(func.overloadpacket)
    if formula is None:
        return Kernel(0, "", moved)
    return Kernel(int(formula(*args, **kwargs, out_val=out)), str(read[0].dtype).removeprefix("torch."), moved)


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Tensors made inside have sizes and types but no contents."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def without_contents(module: nn.Module) -> None:
    """Inside ``fake_tensors``: give ``module``, built on the meta device, parameters and buffers that count as the CPU's."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype), parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            part.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype), name not in part._non_persistent_buffers_set)


def take_census(module: nn.Module, forward: Callable[[], Tensor], differentiated: bool = True) -> Census:
    """Count ``forward()`` and, if ``differentiated``, the backward pass from its scalar; parameters' gradients are dropped as they come."""
    census = Census()
    hooks = [p.register_post_accumulate_grad_hook(_drop) for p in module.parameters() if p.requires_grad]
    backward = False

    def watch(stack: str, number: int, block: nn.Module) -> None:
        def before(*_: Any) -> None:
            if not backward:
                census.begin(stack, number, False)

        def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
            for tensor in output if isinstance(output, tuple) else (output,):
                if tensor.requires_grad and not backward:
                    tensor.register_hook(lambda _: census.begin(stack, number, True))

        hooks.extend((block.register_forward_pre_hook(before), block.register_forward_hook(after)))

    for name, stack in module.named_modules():
        if isinstance(stack, Blocks):
            for number, block in enumerate(stack):
                watch(name, number, block)
    with census:
        loss = forward()
        if differentiated:
            backward = True
            census.begin("", -1, True)
            loss.backward()
    for hook in hooks:
        hook.remove()
    return census


def _drop(parameter: Tensor) -> None:
    parameter.grad = None


@dataclass(frozen=True)
class Cost:
    """One differentiated pass. ``kept``: bytes from its end to the backward pass; ``peak``: bytes at most; ``recomputed`` is part of
    ``backward``."""

    forward: Work
    backward: Work
    kept: int
    peak: int
    peak_at: str
    largest: Largest


def extend(plain: Census, recomputed: Census, depths: Mapping[str, int], every: int) -> Cost:
    """The cost with ``depths`` blocks in each stack and segments of ``every`` blocks recomputed (0: none).

    The censuses are of the same network with at most ``COUNTED`` blocks per stack, without recomputation and of every block.
    """
    census = recomputed if every else plain
    stacks = list(dict.fromkeys(span.stack for span in census.spans if span.stack and not span.backward))
    counted = {stack: min(COUNTED, depths[stack]) for stack in stacks}
    segments = {stack: -(-depths[stack] // every) if every else depths[stack] for stack in stacks}
    more = {stack: (segments[stack] - counted[stack]) * _growth(census, stack, depths[stack]) for stack in stacks}
    inside = {stack: max(0, min(every, depths[stack]) - 1) * _growth(plain, stack, depths[stack]) for stack in stacks}

    peaks: dict[str, int] = {}
    seen: list[str] = []
    for span in census.spans:
        if not span.backward and span.stack and span.stack not in seen:
            seen.append(span.stack)
        last = span.stack != "" and span.block == counted[span.stack] - 1
        alive = _alive(stacks, span, last) if span.backward else seen
        added = sum(more[stack] for stack in alive) + (inside[span.stack] if span.backward and last else 0)
        where = f"{'backward' if span.backward else 'forward'}{' of ' + span.stack if span.stack else ''}"
        peaks[where] = max(peaks.get(where, 0), span.peak + added)
    peak_at = max(peaks, key=lambda name: peaks[name])
    kept = next(span.live for span in census.spans if span.backward) + sum(more.values())
    return Cost(*extend_work(census, depths), kept, peaks[peak_at], peak_at, census.largest)


def extend_work(census: Census, depths: Mapping[str, int]) -> tuple[Work, Work]:
    """Forward and backward kernels with ``depths`` blocks in each stack, from a census of at most ``COUNTED``."""
    works: tuple[Work, Work] = (Counter(), Counter())
    for span in census.spans:
        depth = depths.get(span.stack, 0)
        one_block = span.block == (min(COUNTED, depth) - 1 if span.backward else 0)  # others end with what follows the stack
        times = 1 + (max(0, depth - COUNTED) if one_block else 0)
        for kernel, number in span.work.items():
            works[span.backward][kernel] += times * number
    return works


def block_work(census: Census, depths: Mapping[str, int]) -> dict[str, tuple[Work, Work]]:
    """Stack -> forward and backward kernels of one of its blocks."""
    works: dict[str, tuple[Work, Work]] = {}
    for span in census.spans:
        if span.stack and span.block == (min(COUNTED, depths[span.stack]) - 1 if span.backward else 0):
            works.setdefault(span.stack, (Counter(), Counter()))[span.backward].update(span.work)
    return works


def _growth(census: Census, stack: str, depth: int) -> int:
    """Bytes that one block of ``stack`` adds to what the backward pass needs; 0 where all blocks were counted."""
    if depth <= COUNTED:
        return 0
    first, second = (next(s.live for s in census.spans if (s.stack, s.block, s.backward) == (stack, b, False)) for b in (0, 1))
    return second - first


def _alive(stacks: list[str], span: Span, last: bool) -> list[str]:
    """Stacks whose blocks beyond the counted ones are still kept during a span of the backward pass."""
    if not span.stack:
        return stacks
    return stacks[: stacks.index(span.stack) + (1 if last else 0)]
