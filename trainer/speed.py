"""How fast a run goes: samples, residues, and the network's operations held against what the device could do."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

from ..cluster.plan import known_device
from .config import RunConfig
from .plan import forward_flops


class Speed:
    """``speed/*`` of a step. The first rank counts the network's operations once, on fake tensors; no other records them."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self._world = dist.get_world_size()
        self._pass, self._peak = 0.0, 1.0
        if dist.get_rank() == 0:
            self._pass, self._peak = forward_flops(config), device_peak(device, config.deepspeed.precision)

    def metrics(self, seconds: float, samples: int, residues: float, cycles: float, waited: float) -> dict[str, float]:
        """Of all ranks together. ``cycles``: forward passes per sample; a backward pass counts as two, recomputing as nothing."""
        flops = samples * (cycles + 2) * self._pass
        return {
            "speed/data_wait_share": waited / seconds,
            "speed/samples_per_second": samples / seconds,
            "speed/tokens_per_second": residues / seconds,
            "speed/tflops_per_rank": flops / seconds / self._world / 1e12,
            "speed/mfu": flops / seconds / self._world / self._peak,
        }


def device_peak(device: torch.device, precision: str) -> float:
    """Operations per second of matrix products in the policy's type: a CUDA device's data sheet, else measured here."""
    if device.type == "cuda":
        gpu = known_device(torch.cuda.get_device_name(device))
        if gpu is not None:
            return gpu.peak["bfloat16" if precision == "bf16" else "float32"]
    return matmul_peak(device, 4096 if device.type == "cuda" else 512)


def matmul_peak(device: torch.device | None = None, size: int = 512, repeats: int = 8) -> float:
    """The best of ``repeats`` float32 products of square matrices, in operations per second, with the threads that torch has."""
    factor = torch.ones(size, size, device=device)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        product = factor @ factor
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
