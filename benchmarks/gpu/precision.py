"""The arithmetic of a run: float32, float32 with TF32 products, or bfloat16; and the bounds that each has to keep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from foldline.model.alphafold import AlphaFold
from foldline.model.precision import apply_precision, find_policy


class Bounds(NamedTuple):
    """Largest errors allowed against float64, as norm of the difference over norm, of single modules and of the whole network.

    A gradient's norm counts as at least ``floor`` of that of the largest gradient: few-digit sums of near-cancelling terms say nothing, and
    each unit of a ReLU that rounding switches moves small gradients far.
    """

    module: float
    module_gradient: float
    network: float
    network_gradient: float
    floor: float


# Operands keep 24, 11 and 8 bits. Two to four times what a CPU showed, TF32 imitated by rounding the operands of every matrix product.
MODES = {
    "fp32": Bounds(module=1e-5, module_gradient=1e-3, network=1e-4, network_gradient=1e-3, floor=1e-3),
    "tf32": Bounds(module=5e-3, module_gradient=2e-1, network=1e-2, network_gradient=1e-1, floor=1e-1),
    "bf16": Bounds(module=5e-2, module_gradient=5e-1, network=1.5e-1, network_gradient=4e-1, floor=1e-1),
}


@contextmanager
def arithmetic(mode: str, device: str, model: AlphaFold | None = None) -> Iterator[None]:
    """Run the body in ``mode``: TF32 only for "tf32" (CUDA alone has it), bfloat16 only for "bf16".

    ``model`` is put under the precision policy of that name, and keeps it; for single modules bfloat16 is torch's autocast.
    """
    before = torch.get_float32_matmul_precision()
    if device == "cuda":
        torch.set_float32_matmul_precision("high" if mode == "tf32" else "highest")
    if model is not None:
        apply_precision(model, find_policy("bf16" if mode == "bf16" else "fp32"))
    try:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=mode == "bf16" and model is None):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
