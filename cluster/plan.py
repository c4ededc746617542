"""Will it fit, how long does it take: arithmetic on what was counted elsewhere. No torch, nothing of ours.

``GPUS`` holds data-sheet figures (dense, without sparsity). A kernel takes as long as its products at a share of the peak, its bytes at
a share of the bandwidth, or its launch, whichever is longest; the shares are assumptions, named here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

GIB = 2**30
PRODUCTS, TRAFFIC, LAUNCH = 0.6, 0.7, 6e-6  # share of the peak, share of the bandwidth, seconds of any kernel at least
CONTEXT = 1.0 * GIB  # CUDA's context, libraries' workspaces
FRAGMENTS = 0.05  # of the activations, lost between the allocator's blocks
NETWORK, GPUS_PER_NODE = 50e9, 8  # bytes per second and GPU between nodes (400 Gbit/s); from how many GPUs on that counts


@dataclass(frozen=True)
class Device:
    """``memory`` in bytes as programs find it, ``peak`` operations per second by type of the factors, the rest bytes per second."""

    name: str
    memory: float
    peak: Mapping[str, float]
    bandwidth: float
    link: float  # to the others of a node, one direction
    launch: float = LAUNCH


def _gpu(name: str, gib: float, bf16: float, fp32: float, bandwidth: float, link: float) -> Device:
    return Device(name, gib * GIB, {"bfloat16": bf16 * 1e12, "float32": fp32 * 1e12}, bandwidth * 1e9, link * 1e9)


# float32 is without TF32, which training leaves off.
GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("h200", 139.8, 989.0, 67.0, 4800.0, 450.0),
        _gpu("h100-80", 79.1, 989.0, 67.0, 3350.0, 450.0),
        _gpu("a100-80", 79.1, 312.0, 19.5, 2039.0, 300.0),
        _gpu("a100-40", 39.4, 312.0, 19.5, 1555.0, 300.0),
        _gpu("l40s", 44.4, 362.0, 91.6, 864.0, 32.0),
        _gpu("a10", 22.1, 125.0, 31.2, 600.0, 32.0),
    )
}


def known_device(name: str) -> Device | None:
    """The GPU whose data sheet covers a device of torch's ``name``, e.g. "NVIDIA H100 80GB HBM3"."""
    words = name.lower().replace("-", " ").split()
    for key, gpu in GPUS.items():
        model, _, memory = key.partition("-")
        if model in words and (not memory or any(word.startswith(f"{memory}gb") for word in words)):
            return gpu
    return None


def seconds(work: Iterable[tuple[tuple[int, str, int], int]], device: Device) -> float:
    """Time of ``work``: ((operations, type, bytes), number of such calls)."""
    total = 0.0
    for (flops, dtype, moved), number in work:
        products = flops / (PRODUCTS * device.peak.get(dtype, device.peak["float32"]))
        total += number * max(products, moved / (TRAFFIC * device.bandwidth), device.launch)
    return total


@dataclass(frozen=True)
class Sharding:
    """What decides how much of weights, gradients and optimizer one rank holds."""

    world: int
    stage: int  # ZeRO
    by_sample: bool  # gradients clipped one by one
    samples: int  # per rank and step
    bucket: int  # elements
    overlapped: bool
    offloaded: bool


def state_bytes(parameters: int, how: Sharding) -> dict[str, float]:
    """Bytes on the device of one rank from step to step, float32; ``parameters`` in bytes. Matches DeepSpeed 0.19's tensors."""
    share = parameters / how.world if how.stage else parameters
    on_device = 0.0 if how.offloaded else share
    state = {"parameters": parameters / how.world if how.stage == 3 else float(parameters)}
    state["master copy"] = on_device if how.stage else 0.0
    state["optimizer"] = 2 * on_device
    state["ema"] = on_device
    return state


def working_bytes(parameters: int, how: Sharding) -> dict[str, float]:
    """Bytes that a backward pass needs besides activations."""
    share = parameters / how.world
    gradients = float(parameters) if how.stage <= 1 or how.by_sample else 0.0  # stage 1 shares out the optimizer alone
    if how.by_sample:
        gradients += share if how.stage else 0.0
    elif how.stage > 1:
        gradients += share * (2 if how.samples > 1 else 1)  # the passes before, and this one's
    gradients += parameters if how.by_sample and how.samples > 1 else 0
    buckets = 4.0 * how.bucket * (2 if how.overlapped else 1) if how.stage else 0.0
    return {"gradients": gradients, "buckets": buckets, "gathered": float(parameters) if how.stage == 3 else 0.0}


def communication_seconds(
    parameters: int,
    how: Sharding,
    passes: int,
    forwards: int,
    device: Device,
    network: float = NETWORK,
    per_node: int = GPUS_PER_NODE,
) -> float:
    """Not overlapped with computing: gradients reduced once per pass (once per step by sample), weights gathered as the stage needs."""
    if how.world == 1:
        return 0.0
    speed = TRAFFIC * (device.link if how.world <= per_node else min(device.link, network))
    once = parameters * (how.world - 1) / how.world / speed
    reductions = 1 if how.by_sample or how.stage < 2 else passes
    gathers = 1 if how.stage < 3 else passes * (forwards + 1)
    return once * (reductions + gathers)


def longest(crops: Sequence[int], bytes_at: Sequence[float], fixed: float, memory: float, step: int = 8, limit: int = 8192) -> int:
    """The largest multiple of ``step`` residues that fits, 0 for none: a polynomial through 0 and the counted ``crops``."""
    fits = 0
    for crop in range(step, limit + 1, step):
        if fixed + interpolate((0, *crops), (0.0, *bytes_at), crop) > memory * (1 + 1e-9):
            break
        fits = crop
    return fits


def interpolate(at: Sequence[int], values: Sequence[float], x: float) -> float:
    """The polynomial through the given points, at ``x``."""
    total = 0.0
    for i, (here, value) in enumerate(zip(at, values, strict=True)):
        term = value
        for j, there in enumerate(at):
            term *= 1.0 if i == j else (x - there) / (here - there)
        total += term
    return total
