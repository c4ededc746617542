"""Time and peak memory of a piece of work on the device; running out of memory is a result."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from foldline.benchmarks.gpu.harness import MEMORY, Report, Row, Settings

REPEATS = 3


class Cost(NamedTuple):
    """Median seconds of the repeats behind one warm-up, and the peak in GiB: on CUDA what torch allocated, on the CPU the process's."""

    seconds: float
    peak: float
    repeats: int
    warm_up: float


def measure(work: Callable[[], None], settings: Settings) -> Cost | None:
    """Run ``work`` once for warming up and three times more, fewer when time is up; None when memory runs out."""
    cuda, seconds = settings.device == "cuda", []
    enough = True
    try:
        for repeat in range(1 + REPEATS):
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            work()
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
            if settings.late and repeat:
                break
    except torch.OutOfMemoryError:
        enough = False  # the traceback holds the tensors: they are freed outside of this block
    if not enough:
        gc.collect()
        torch.cuda.empty_cache()
        return None
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Cost(statistics.median(seconds[1:]), peak, len(seconds) - 1, seconds[0])


def add_cost(report: Report, name: str, cost: Cost | None, status: str, note: str = "") -> None:
    """A line with seconds and GiB; ``status`` is for work that fitted."""
    if cost is None:
        total = torch.cuda.get_device_properties(0).total_memory / 2**30
        report.add(Row(name, MEMORY, note=f"does not fit {total:.0f} GiB"))
        return
    text = f"peak {cost.peak:.1f} GiB; median of {cost.repeats}, warm-up {cost.warm_up:.2f} s{'; ' if note else ''}{note}"
    values = {"seconds": cost.seconds, "peak_gib": cost.peak, "repeats": float(cost.repeats), "warm_up_seconds": cost.warm_up}
    report.add(Row(name, status, cost.seconds, unit="s", note=text, values=values))
