"""What ``foldline plan --nodes`` prints: how the config's run grows over the nodes of a cluster, for people or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..cluster.plan import GIB, GPUS
from ..cluster.scaling import Cluster, Point, calibrate, describe, efficiency, grow
from ..errors import FoldlineError
from .config import load_config
from .scale import workload

DAY = 86_400.0


@dataclass(frozen=True)
class Growth:
    """What to plan for. ``dap`` 0: as small as the batch allows; ``measured``: seconds of a one-sample step on one, 0 = not known."""

    nodes: tuple[int, ...]
    per_node: int
    network: float  # GB/s per GPU between nodes
    dap: int
    measured: float
    price: float  # of a GPU-hour, in any currency; 0 leaves the cost out


def scale_command(config_path: Path, overrides: Sequence[str], gpu: str, growth: Growth, as_json: bool) -> int:
    """Print the run on one GPU and on each number of nodes; 0 where all fit the GPU's memory, 1 where one does not."""
    _check(gpu, growth)
    work = workload(load_config(config_path, overrides))
    cluster = Cluster(GPUS[gpu], growth.per_node, growth.network * 1e9)
    if growth.measured:
        cluster = calibrate(work, cluster, growth.measured)
    points = [grow(work, cluster, 1), *(grow(work, cluster, nodes * growth.per_node, growth.dap) for nodes in growth.nodes)]
    fits = all(point.memory <= cluster.device.memory for point in points)
    if as_json:
        rows = [asdict(point) | {"step": point.step, "efficiency": share} for point, share in zip(points, efficiency(points), strict=True)]
        print(json.dumps({"gpu": gpu, "growth": asdict(growth), "factor": cluster.factor, "flops": work.flops, "points": rows}, indent=1))
        return 0 if fits else 1
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
    for table in (time_table(points, growth.price), load_table(points)):
        console.print(table)
        console.print()
    for line in describe(work, cluster):
        console.print(line)
    if max(point.dap for point in points) > 1:
        console.print("DAP is calculated, not offered yet: this version trains with data parallelism and ZeRO")
    if not fits:
        console.print(f"does not fit: {max(p.memory for p in points) / GIB:.1f} GiB; see the policies of `foldline plan` without --nodes")
    return 0 if fits else 1


def time_table(points: Sequence[Point], price: float) -> Table:
    """Seconds of a step by purpose, throughput, and the whole run."""
    headings = (
        "GPUs",
        "DAP",
        "passes",
        "computing, s",
        "DAP, s",
        "gradients, s",
        "step, s",
        "samples/s",
        "per GPU",
        "MFU",
        "days",
        "GPU-h",
    )
    table = _table(*headings)
    if price:
        table.add_column("cost", justify="right", no_wrap=True)
    for point, share in zip(points, efficiency(points), strict=True):
        computing = point.seconds["forward"] + point.seconds["backward"]
        row = [str(point.gpus), str(point.dap), str(point.passes), f"{computing:.3g}", f"{point.seconds['axial']:.3g}"]
        row += [
            f"{point.seconds['gradients']:.2g}",
            f"{point.step:.3g}",
            f"{point.samples_per_second:.3g}",
            f"{share:.0%}",
            f"{point.utilisation:.1%}",
        ]
        row += [f"{point.days:.3g}", f"{point.gpu_hours:,.0f}", *([f"{point.gpu_hours * price:,.0f}"] if price else [])]
        table.add_row(*row)
    return table


def load_table(points: Sequence[Point]) -> Table:
    """What memory, network and storage must bear, and what failures take."""
    table = _table("GPUs", "GiB", "sent, GB/step", "store, MB/s", "open files/node", "a failure in", "checkpoint every", "lost")
    for point in points:
        row = [str(point.gpus), f"{point.memory / GIB:.1f}", f"{point.network_bytes / 1e9:.2f}", f"{point.store_bandwidth / 1e6:.3g}"]
        row += [str(point.open_files), _duration(point.failure_every), _duration(point.checkpoint_every), f"{point.lost:.2%}"]
        table.add_row(*row)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _duration(seconds: float) -> str:
    for unit, size in (("d", DAY), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def _check(gpu: str, growth: Growth) -> None:
    if gpu not in GPUS:
        raise FoldlineError(f"--gpu {gpu!r} cannot be planned over nodes; one of {', '.join(GPUS)}")
    rules = [
        (all(nodes >= 1 for nodes in growth.nodes), f"--nodes {','.join(map(str, growth.nodes))} must be at least 1 each"),
        (growth.per_node >= 1, f"--gpus-per-node {growth.per_node} is less than 1"),
        (growth.network > 0, f"--network {growth.network:g} is not above 0 GB/s"),
        (growth.dap >= 0, f"--dap {growth.dap} is negative; 0 takes the smallest that the batch allows"),
        (growth.measured >= 0, f"--measured {growth.measured:g} is negative; give seconds of a step, or 0"),
        (growth.price >= 0, f"--price {growth.price:g} is negative"),
    ]
    broken = [message for holds, message in rules if not holds]
    if broken:
        raise FoldlineError("; ".join(broken))
