"""How a run grows from one GPU to thousands: time, network, storage and failures of ZeRO x axial x data parallelism. No torch.

Arithmetic on work that was counted elsewhere. Axial parallelism (DAP) gives the blocks of a stack to ``dap`` ranks, each a slice of the
rows; data parallelism gives samples to groups of ``dap`` ranks; ZeRO spreads optimizer state over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..errors import FoldlineError
from .plan import CONTEXT, FRAGMENTS, GIB, TRAFFIC, Device, Sharding, communication_seconds, seconds, state_bytes, working_bytes

Calls = tuple[tuple[tuple[int, str, int], int], ...]  # ((operations, type, bytes), number of such calls)
COLLECTIVE = 15e-6  # seconds that a collective takes at least
GPU_HOURS_PER_FAILURE = 16_384 * 54 * 24 / 419  # unexpected interruptions of Llama 3's pre-training on 16,384 H100s (Dubey et al. 2024)
HOST_COPY = 10e9  # bytes per second from a GPU to its host's memory, while a checkpoint holds the step


@dataclass(frozen=True)
class Stack:
    """Alike blocks that ``dap`` ranks share.

    ``gathered`` and ``swapped``: bytes of one block's tensors that every rank needs whole, or that change the axis they are cut along, in a
    forward pass of one sample; ``collectives``: how many exchanges that takes.
    """

    name: str
    depth: int
    forward: Calls  # of one block
    backward: Calls  # with recomputation
    gathered: float
    swapped: float
    collectives: int


@dataclass(frozen=True)
class Workload:
    """What a config asks of any cluster. Work is of one sample; bytes unless said otherwise."""

    batch: int  # samples of a step
    samples: int  # of the whole run
    cycles: float  # forward passes per sample, the mean
    stacks: tuple[Stack, ...]
    forward: Calls  # outside the stacks, so of each rank of a group
    backward: Calls
    recomputed: bool
    flops: float  # operations of matrix products that a sample needs, without recomputing
    parameters: int
    sharding: Sharding  # of one rank that takes one sample; world and samples are set as the cluster grows
    activations: float
    features: float  # of one sample on the device, all passes
    stored: float  # read from the store for one sample
    workers: int  # loader processes of a rank
    open_files: int  # of the store, of one loader process


@dataclass(frozen=True)
class Cluster:
    """The hardware. ``network``: bytes per second and GPU between nodes; ``factor``: measured over calculated time of the computing."""

    device: Device
    per_node: int = 8
    network: float = 50e9
    write: float = 1e9  # bytes per second into the checkpoint directory
    restart: float = 300.0  # seconds from a failure to the next step: noticing, requeue, start
    hours_per_failure: float = GPU_HOURS_PER_FAILURE  # of one GPU with its share of the node
    factor: float = 1.0


@dataclass(frozen=True)
class Point:
    """The run on ``gpus`` GPUs in groups of ``dap``: seconds of a step by purpose; ``lost``: share of the time."""

    gpus: int
    dap: int
    passes: int  # samples that a group takes one after the other in a step
    seconds: dict[str, float]
    memory: float  # bytes per GPU
    samples_per_second: float
    utilisation: float  # model FLOPs utilisation
    store_bandwidth: float  # bytes per second of all ranks
    open_files: int  # of one node
    network_bytes: float  # sent by a GPU in a step
    failure_every: float  # seconds
    checkpoint_every: float  # seconds, the best interval
    lost: float
    days: float  # of the whole run, with what is lost
    gpu_hours: float

    @property
    def step(self) -> float:
        """Seconds of a step, with nothing overlapped."""
        return sum(self.seconds.values())


def grow(work: Workload, cluster: Cluster, gpus: int, dap: int = 0) -> Point:
    """``work`` on ``gpus`` GPUs; ``dap`` 0 takes the smallest group that gives every group a sample.

    Raises FoldlineError where the batch cannot be shared among the groups.
    """
    dap = dap or smallest_group(work.batch, gpus)
    if gpus % dap or work.batch % (gpus // dap):
        raise FoldlineError(
            f"{gpus} GPUs in groups of {dap} cannot share {work.batch} samples evenly; take a number of groups that divides run.batch"
        )
    passes = work.batch // (gpus // dap)
    how = replace(work.sharding, world=gpus, samples=passes)
    link = cluster.device.link if dap <= cluster.per_node else min(cluster.device.link, cluster.network)
    moved, exchanging = exchanges(work, dap, link)
    calculated = {
        "forward": passes * work.cycles * cluster.factor * _shared(work.stacks, work.forward, cluster.device, dap, False),
        "backward": passes * cluster.factor * _shared(work.stacks, work.backward, cluster.device, dap, True),
        "axial": passes * exchanging,
        "gradients": communication_seconds(
            work.parameters, how, passes, math.ceil(work.cycles), cluster.device, cluster.network, cluster.per_node
        ),
        "optimizer": 12 * (work.parameters / gpus if how.stage else work.parameters) / cluster.device.bandwidth,
    }
    step = sum(calculated.values())
    rate = work.batch / step
    every, interval, lost = interruptions(work, cluster, gpus, step)
    days = work.samples / rate / (1 - lost) / 86_400
    return Point(
        gpus=gpus,
        dap=dap,
        passes=passes,
        seconds=calculated,
        memory=memory(work, how, dap),
        samples_per_second=rate,
        utilisation=rate * work.flops / (gpus * cluster.device.peak["bfloat16"]),
        store_bandwidth=rate * work.stored,
        open_files=min(gpus, cluster.per_node) * max(1, work.workers) * work.open_files,
        network_bytes=passes * moved + 2 * work.parameters * (gpus - 1) / gpus,
        failure_every=every,
        checkpoint_every=interval,
        lost=lost,
        days=days,
        gpu_hours=days * 24 * gpus,
    )


def smallest_group(batch: int, gpus: int) -> int:
    """Ranks per sample so that no group is without one: 1 up to ``batch`` GPUs, then the next power of two."""
    dap = 1
    while gpus > batch * dap:
        dap *= 2
    return dap


def exchanges(work: Workload, dap: int, link: float) -> tuple[float, float]:
    """(bytes, seconds) that axial parallelism costs a rank for one sample: all forward passes, the backward pass, its recomputation.

    The gradient of an exchange is an exchange of the same size.
    """
    if dap == 1:
        return 0.0, 0.0
    times = work.cycles + (2 if work.recomputed else 1)
    moved = sum(s.depth * (s.gathered + s.swapped / dap) * (dap - 1) / dap for s in work.stacks)
    waits = sum(s.depth * s.collectives for s in work.stacks) * COLLECTIVE
    return times * moved, times * (moved / (TRAFFIC * link) + waits)


def memory(work: Workload, how: Sharding, dap: int) -> float:
    """Bytes of one GPU; activations are cut along the rows, weights are not."""
    state = sum(state_bytes(work.parameters, how).values()) + sum(working_bytes(work.parameters, how).values())
    return state + work.features + work.activations / dap * (1 + FRAGMENTS) + CONTEXT


def interruptions(work: Workload, cluster: Cluster, gpus: int, step: float) -> tuple[float, float, float]:
    """(seconds between failures, best seconds between checkpoints, share of the time lost to both).

    Young's and Daly's interval: the square root of twice what a checkpoint holds the run times the time between failures. Checkpoints are
    written beside the training, so they hold it for the copy to the host's memory alone, but cannot follow each other faster than they are
    written, nor than steps. A failure costs half an interval and the restart.
    """
    every = cluster.hours_per_failure * 3600 / gpus
    holds = 4 * work.parameters / (gpus if work.sharding.stage else 1) / HOST_COPY
    written = checkpoint_bytes(work.parameters) / cluster.write
    interval = max(math.sqrt(2 * holds * every), written, step)
    return every, interval, min(0.99, holds / interval + (interval / 2 + cluster.restart) / every)


def checkpoint_bytes(parameters: int) -> int:
    """Weights, two moments and the average in float32 pieces, and whole weights and average as safetensors."""
    return 6 * parameters


def calibrate(work: Workload, cluster: Cluster, measured: float) -> Cluster:
    """``cluster`` with the factor at which one sample on one of its GPUs takes ``measured`` seconds."""
    one = grow(replace(work, batch=1), replace(cluster, factor=1.0), 1)
    computing = one.seconds["forward"] + one.seconds["backward"]
    if measured <= one.step - computing:
        raise FoldlineError(
            f"--measured {measured:g} s is less than the optimizer alone takes ({one.step - computing:.2g} s) on {cluster.device.name}"
        )
    return replace(cluster, factor=(measured - (one.step - computing)) / computing)


def efficiency(points: Sequence[Point]) -> list[float]:
    """Samples per second and GPU of each, over the first's."""
    first = points[0].samples_per_second / points[0].gpus
    return [point.samples_per_second / point.gpus / first for point in points]


def describe(work: Workload, cluster: Cluster) -> list[str]:
    """What the figures rest on, a line each."""
    return [
        f"{work.flops / 1e12:.1f} TFLOP per sample at {work.cycles:g} passes; computing at {cluster.factor:.2f} times the calculated time",
        f"a sample reads {work.stored / 1e6:.2f} MB of the store; a checkpoint is {checkpoint_bytes(work.parameters) / 1e9:.2f} GB",
        f"{cluster.per_node} GPUs per node, {cluster.device.memory / GIB:.0f} GiB each; GB/s per GPU: {cluster.device.link / 1e9:g} within "
        f"a node, {cluster.network / 1e9:g} between nodes",
        f"one failure in {cluster.hours_per_failure:,.0f} GPU-hours, {cluster.restart:g} s to start again, checkpoints written at "
        f"{cluster.write / 1e9:g} GB/s",
    ]


def _shared(stacks: Iterable[Stack], rest: Calls, device: Device, dap: int, backward: bool) -> float:
    """Seconds of one pass: blocks on a slice of the rows, everything else whole."""
    blocks = sum(s.depth * seconds(_slice(s.backward if backward else s.forward, dap), device) for s in stacks)
    return blocks + seconds(rest, device)


def _slice(calls: Calls, dap: int) -> Calls:
    return tuple(((flops // dap, dtype, moved // dap), number) for (flops, dtype, moved), number in calls)
