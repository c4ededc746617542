"""Peak memory of one fold, measured in a process that does nothing else.

On a GPU: the most that PyTorch's allocator held at once (``torch.cuda.max_memory_allocated``) plus what else the process took of the device
between opening the runner and the end, weights of engines that allocate for themselves among it. On a CPU: the highest resident set during
a pass (VmHWM of Linux, cleared before the pass) less the resident set before the runner was opened, so that weights and activations count
and Python and its libraries do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from ..data_store.config import FeatureConfig
from ..data_store.featurize import inference_cycles
from ..data_store.types import ChainRecord
from .recycling import fold_cycles
from .runners import Runner

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CLEAR_PEAK = "5"  # proc(5): reset VmHWM to what is resident now


@dataclass(frozen=True)
class Peak:
    """Bytes, and how they were measured: "device" or "resident"."""

    bytes: int
    method: str


def measure_peak(answer: Connection, make: Callable[[], Runner], record: ChainRecord, features: FeatureConfig, device: str) -> None:
    """Open the runner, warm up with one pass, measure another one; sends a ``Peak``, or the error's text."""
    try:
        cycles = inference_cycles(record, features, 0, 1)
        measure = _on_device if device == "cuda" else _resident
        answer.send(measure(make, lambda runner: fold_cycles(runner, cycles)))
    except Exception as error:  # the parent has no other way to learn of it
        answer.send(f"{type(error).__name__}: {error}")
    finally:
        answer.close()


def _resident(make: Callable[[], Runner], fold: Callable[[Runner], object]) -> Peak:
    before = _status("VmRSS")
    runner = make()
    fold(runner)
    CLEAR.write_text(CLEAR_PEAK)
    fold(runner)
    return Peak(max(0, _status("VmHWM") - before), "resident")


def _on_device(make: Callable[[], Runner], fold: Callable[[Runner], object]) -> Peak:
    import torch

    torch.cuda.init()
    free_before, _ = torch.cuda.mem_get_info()
    runner = make()
    fold(runner)
    torch.cuda.reset_peak_memory_stats()
    fold(runner)
    torch.cuda.synchronize()
    free_after, _ = torch.cuda.mem_get_info()
    beside = max(0, free_before - free_after - torch.cuda.memory_reserved())
    return Peak(torch.cuda.max_memory_allocated() + beside, "device")


def _status(key: str) -> int:
    """A line of /proc/self/status in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {key}")
