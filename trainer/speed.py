"""How fast the device could be: the peak that a step's operations are held against."""

from __future__ import annotations

import time

import torch

from ..cluster.plan import known_device


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
