"""Which CPUs and which GPU each rank uses: a host's ranks divide what the scheduler gave them, each near its GPU.

``divide`` is a pure function of what every rank of the host may use; ``machine`` reads the kernel's tree below /sys.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import FoldlineError
from .ranks import RankInfo

SYS = Path("/sys/devices/system")
PCI = Path("/sys/bus/pci/devices")


@dataclass(frozen=True)
class Machine:
    """A host's CPUs: NUMA node -> its CPUs, and CPU -> the hardware threads of its core (itself included)."""

    nodes: Mapping[int, tuple[int, ...]]
    siblings: Mapping[int, tuple[int, ...]]

    def nodes_of(self, cpus: Sequence[int]) -> tuple[int, ...]:
        """The NUMA nodes that ``cpus`` lie on."""
        return tuple(sorted(node for node, own in self.nodes.items() if set(own) & set(cpus)))


@dataclass(frozen=True)
class Seat:
    """What a rank may use before the host's ranks have divided it: CPUs that the scheduler allows, NUMA node of its GPU (-1: none)."""

    rank: int
    allowed: tuple[int, ...]
    gpu_node: int = -1


def machine(root: Path = SYS) -> Machine:
    """Read NUMA nodes and hardware threads. A kernel without NUMA is one node of all CPUs."""
    online = parse_ranges(_text(root / "cpu/online"))
    names = sorted((root / "node").glob("node[0-9]*"), key=lambda path: int(path.name[4:]))
    nodes = {int(path.name[4:]): cpus for path in names if (cpus := parse_ranges(_text(path / "cpulist")))}
    siblings = {cpu: parse_ranges(_text(root / f"cpu/cpu{cpu}/topology/thread_siblings_list")) or (cpu,) for cpu in online}
    return Machine(nodes or {0: online}, siblings)


def gpu_node(bus_id: str, root: Path = PCI) -> int:
    """NUMA node of the PCI device ``bus_id`` ("0000:1b:00.0"), -1 where the kernel does not know it."""
    text = _text(root / bus_id.lower() / "numa_node")
    return int(text) if text.lstrip("-").isdigit() else -1


def divide(seats: Sequence[Seat], host: Machine) -> list[tuple[int, ...]]:
    """The CPUs of each seat, in order.

    Ranks that may use the same CPUs share them out: each goes to its GPU's NUMA node, or in turn to the nodes that have the most cores left
    per rank, and the ranks of a node take whole cores in equal numbers. A rank that the scheduler has already set apart (its CPUs differ
    from the others') keeps what it has, and so do ranks that are more than the cores: two on one core would wait for each other.
    """
    found = {seat.rank: seat.allowed for seat in seats}
    for allowed in {seat.allowed for seat in seats}:
        group = [seat for seat in seats if seat.allowed == allowed]
        overlapping = any(set(seat.allowed) & set(allowed) for seat in seats if seat.allowed != allowed)
        if len(group) > 1 and not overlapping:
            found |= _shared_out(sorted(group, key=lambda seat: seat.rank), allowed, host)
    return [found[seat.rank] for seat in seats]


def _shared_out(group: Sequence[Seat], allowed: tuple[int, ...], host: Machine) -> dict[int, tuple[int, ...]]:
    """Rank -> CPUs, for seats that may all use ``allowed``; {} where they are more than its cores."""
    cores = {node: _cores(set(own) & set(allowed), host) for node, own in host.nodes.items()}
    cores = {node: own for node, own in cores.items() if own}
    if sum(map(len, cores.values())) < len(group):
        return {}
    sitting: dict[int, list[int]] = {node: [] for node in cores}
    left: list[int] = []
    for seat in group:
        near = seat.gpu_node in cores and len(sitting[seat.gpu_node]) < len(cores[seat.gpu_node])
        (sitting[seat.gpu_node] if near else left).append(seat.rank)
    for rank in left:
        roomiest = max(cores, key=lambda node: (len(cores[node]) / (len(sitting[node]) + 1), -node))
        sitting[roomiest].append(rank)
    found = {}
    for node, seated in sitting.items():
        for place, rank in enumerate(sorted(seated)):
            first, last = (len(cores[node]) * n // len(seated) for n in (place, place + 1))
            found[rank] = tuple(sorted(cpu for core in cores[node][first:last] for cpu in core))
    return found


def _cores(cpus: set[int], host: Machine) -> list[tuple[int, ...]]:
    """``cpus`` by core, in order; of a core only the allowed threads."""
    return sorted({tuple(sorted(set(host.siblings.get(cpu, (cpu,))) & cpus)) for cpu in cpus})


def check_devices(ranks: Sequence[RankInfo]) -> None:
    """Raise FoldlineError where two ranks of the job hold the same GPU (``RankInfo.device`` ends with its unique id)."""
    holders: dict[tuple[str, str], int] = {}
    for mine in ranks:
        key = (mine.host, mine.device.split()[-1] if mine.device else "")
        if mine.device.startswith("cuda") and holders.setdefault(key, mine.rank) != mine.rank:
            raise FoldlineError(
                f"ranks {holders[key]} and {mine.rank} on {mine.host} both use {mine.device}; give each rank a GPU of its own "
                "(CUDA_VISIBLE_DEVICES shows every rank the same one)"
            )


def cuda_index(ranks: RankInfo, visible: int, environment: Mapping[str, str]) -> int:
    """Which of the ``visible`` GPUs is this rank's. A scheduler or wrapper that shows each rank a single one has chosen already.

    Raises FoldlineError for more ranks than GPUs on the host.
    """
    if ranks.local_rank < visible >= ranks.local_world:
        return ranks.local_rank
    if visible == 1 and environment.get("CUDA_VISIBLE_DEVICES"):
        return 0
    raise FoldlineError(
        f"rank {ranks.rank} is number {ranks.local_rank} of {ranks.local_world} on host {ranks.host}, which shows {visible} GPUs "
        f"(CUDA_VISIBLE_DEVICES={environment.get('CUDA_VISIBLE_DEVICES', 'not set')}); start at most one rank per GPU"
    )


def allowed_cpus() -> tuple[int, ...]:
    """The CPUs that this process may run on: what cgroup, scheduler and launcher have left it."""
    return tuple(sorted(os.sched_getaffinity(0)))


def bind(cpus: Sequence[int]) -> None:
    """Keep every thread of this process, and what it starts later, on ``cpus``."""
    for thread in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(thread.name), cpus)
        except ProcessLookupError:  # it ended meanwhile
            continue


def quota(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores' worth of time that the control group of this process grants, infinity where it sets no limit."""
    words = _text(root / "cpu.max").split() or [_text(root / f"cpu/cpu.cfs_{name}_us") for name in ("quota", "period")]
    limited = len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]) > 0
    return int(words[0]) / int(words[1]) if limited else math.inf


def parse_ranges(text: str) -> tuple[int, ...]:
    """'0-2,5' -> (0, 1, 2, 5)."""
    numbers: list[int] = []
    for piece in filter(None, text.strip().split(",")):
        first, _, last = piece.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
