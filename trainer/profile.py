"""``foldline profile``: a trace of a few training steps, and which operations of which sub-network they spend their time in."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from ..cluster.ranks import discover
from ..data_store.store import Store
from ..errors import FoldlineError
from ..whole_file import check_out
from .advance import Stepper
from .config import RunConfig, load_config
from .ema import Ema
from .engine import initialize, require_deepspeed, start_process_group, stop_process_group
from .loop import open_loader
from .partitions import master_partitions
from .step import TrainingStep

MARK, LOSSES, OUTSIDE = "in ", "losses", "outside the network"
DEPTH = 3  # parts of a module's path that name a sub-network
SHOWN, WIDTH = 25, 140


@dataclass(frozen=True)
class Operation:
    """One kind of operation in one sub-network, summed over the traced steps; ``device_seconds`` is 0 on the CPU."""

    network: str
    backward: bool
    name: str
    calls: int
    cpu_seconds: float
    device_seconds: float

    @property
    def seconds(self) -> float:
        return self.device_seconds or self.cpu_seconds


def profile_command(config_path: Path, overrides: Sequence[str], steps: int, out: Path) -> int:
    """Trace ``steps`` steps of the config's run after one that warms up. Writes nothing but ``out``, on rank 0."""
    if steps < 1:
        raise FoldlineError(f"--steps {steps} is below 1; give the number of steps to trace")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise FoldlineError(f"--out {out} holds something already; name a new folder")
    config = load_config(config_path, overrides)
    check_out(out / "trace.json.gz")
    require_deepspeed()
    try:
        trace, rank = traced(config, steps)
    finally:
        stop_process_group()
    if rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        trace.export_chrome_trace(str(out / "trace.json.gz"))
        found = operations(trace.events())
        (out / "operations.json").write_text(json.dumps([asdict(operation) for operation in found], indent=1) + "\n")
        with (out / "operations.txt").open("w") as file:
            show(found, steps, Console(file=file, width=WIDTH))
        show(found, steps, Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH))
        print(f"{out / 'trace.json.gz'} opens in https://ui.perfetto.dev or chrome://tracing")
    return 0


def traced(config: RunConfig, steps: int) -> tuple[Any, int]:
    """The profile, and this rank's number. Collective."""
    ranks = discover()
    device = start_process_group(config, ranks)
    torch.manual_seed(config.run.seed)
    module = TrainingStep(config).to(device)
    engine = initialize(module, config, ranks.world)
    ema = Ema(master_partitions(engine, config.deepspeed.zero_stage), config.optim.ema_decay)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with open_loader(config, Store.open(config.data.store), ranks, 0) as loader, named_ranges(module):
        stepper = Stepper(engine, iter(loader), config, device)
        stepper.advance(1, ema)
        with profile(activities=kinds) as trace:
            for step in range(2, steps + 2):
                stepper.advance(step, ema)
    return trace, ranks.rank


@contextmanager
def named_ranges(module: TrainingStep) -> Iterator[None]:
    """Inside, every sub-network's forward pass is a range of its own in a trace; by hooks, nothing in the network knows."""
    open_ranges: list[Any] = []
    hooks: list[Any] = []

    def watch(part: nn.Module, name: str) -> None:
        def before(*_: Any) -> None:
            open_ranges.append(record_function(MARK + name))
            open_ranges[-1].__enter__()

        def after(*_: Any) -> None:
            open_ranges.pop().__exit__(None, None, None)

        # called although the module raised: recomputation is cut short by an exception
        hooks.extend((part.register_forward_pre_hook(before), part.register_forward_hook(after, always_call=True)))

    watch(module, LOSSES)
    for path, part in module.model.named_modules():
        name = network_name(path)
        if name and not isinstance(part, nn.ModuleList) and any(part.children()) and len(name.split(".")) <= DEPTH:
            watch(part, name)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def network_name(path: str) -> str:
    """A module's path without the numbers of blocks: "evoformer.blocks.3.row_attention" -> "evoformer.row_attention"."""
    return ".".join(part for part in path.split(".") if part and not part.isdigit() and part != "blocks")


def operations(events: Iterable[Any]) -> list[Operation]:
    """The profiler's events, summed by sub-network, direction and name, the dearest first.

    An operation of the backward pass belongs to the sub-network in which the operation that it differentiates ran.
    """
    events = list(events)
    owner: dict[int, str] = {}  # sequence number of autograd -> sub-network
    for event in events:
        if event.sequence_nr >= 0 and not _is_backward(event):
            owner[event.sequence_nr] = _network(event) or OUTSIDE
    sums: dict[tuple[str, bool, str], list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for event in events:
        if event.name.startswith(MARK) or str(event.device_type) != "DeviceType.CPU":
            continue
        network, backward = _network(event), _is_backward(event)
        if network is None:
            network = owner.get(_sequence(event), OUTSIDE) if backward else OUTSIDE
        row = sums[network, backward, event.name.removeprefix("aten::")]
        row[0] += 1
        row[1] += event.self_cpu_time_total / 1e6
        row[2] += event.self_device_time_total / 1e6
    rows = [Operation(*key, int(calls), cpu, device) for key, (calls, cpu, device) in sums.items()]
    return sorted(rows, key=lambda row: row.seconds, reverse=True)


def _ancestors(event: Any) -> Iterator[Any]:
    while event is not None:
        yield event
        event = event.cpu_parent


def _network(event: Any) -> str | None:
    return next((e.name.removeprefix(MARK) for e in _ancestors(event) if e.name.startswith(MARK)), None)


def _is_backward(event: Any) -> bool:
    return any(e.name.startswith("autograd::engine::evaluate_function") for e in _ancestors(event))


def _sequence(event: Any) -> int:
    return next((e.sequence_nr for e in _ancestors(event) if e.name.startswith("autograd::engine::evaluate_function")), -1)


def show(found: Sequence[Operation], steps: int, console: Console) -> None:
    """Print the sub-networks and their dearest operations, per step."""
    total = sum(operation.seconds for operation in found) or 1.0
    networks: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for operation in found:
        networks[operation.network][operation.backward] += operation.seconds
    table = Table("sub-network", "forward, ms", "backward, ms", "share", box=None, pad_edge=False)
    for name, (forward, backward) in sorted(networks.items(), key=lambda item: -sum(item[1])):
        table.add_row(name, f"{1e3 * forward / steps:.1f}", f"{1e3 * backward / steps:.1f}", f"{(forward + backward) / total:.1%}")
    dearest = Table("operation", "sub-network", "pass", "calls", "ms per step", "share", box=None, pad_edge=False)
    for operation in found[:SHOWN]:
        way = "backward" if operation.backward else "forward"
        calls, spent = f"{operation.calls / steps:.0f}", f"{1e3 * operation.seconds / steps:.1f}"
        dearest.add_row(operation.name, operation.network, way, calls, spent, f"{operation.seconds / total:.1%}")
    for each in (table, dearest):
        for column in each.columns[1 if each is table else 3 :]:
            column.justify = "right"
        console.print(each)
        console.print()
