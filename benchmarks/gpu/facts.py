"""What this machine is: device, memory, versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess

import torch

from foldline.benchmarks.gpu.harness import ERROR, MEASURED, PASS, Report, Row, Settings


def check(report: Report, settings: Settings) -> None:
    """Facts as lines; a missing CUDA device is an error."""
    facts = {"python": platform.python_version(), "torch": torch.__version__, "cuda of torch": torch.version.cuda or "none"}
    facts |= {"processor": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"}
    if settings.device == "cpu":
        report.add(Row("device", PASS, note="cpu (dry run)"))
    elif not torch.cuda.is_available():
        report.add(Row("device", ERROR, note="torch sees no CUDA device; --device cpu --small dry-runs the checks"))
    else:
        here = torch.cuda.get_device_properties(0)
        gib = here.total_memory / 2**30
        note = f"{here.name}, compute capability {here.major}.{here.minor}, {here.multi_processor_count} multiprocessors"
        report.add(Row("device", PASS, gib, unit="GiB", note=note))
        facts |= {"driver": driver(), "bf16": str(torch.cuda.is_bf16_supported())}
    for name, value in facts.items():
        report.add(Row(name, MEASURED, note=value))


def driver() -> str:
    """The driver's version, as nvidia-smi tells it."""
    if shutil.which("nvidia-smi") is None:
        return "unknown (no nvidia-smi)"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return (done.stdout.strip() or done.stderr.strip() or "unknown").splitlines()[0]
