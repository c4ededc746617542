"""``foldline doctor``: what works on this machine, what does not, why, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import FoldlineError
from .launch import find_mpirun


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``state`` is "works", "absent" (optional and not there), "broken" or "note"."""

    topic: str
    state: str
    detail: str


# package to import -> (name on the index, extra that brings it, what needs it)
PACKAGES: dict[str, tuple[str, str, str]] = {
    "torch": ("torch", "", "training, export, PyTorch runner"),
    "zarr": ("zarr", "", "writing the feature store"),
    "tensorstore": ("tensorstore", "", "reading the feature store"),
    "gemmi": ("gemmi", "", "mmCIF and PDB"),
    "onnx": ("onnx", "", "export"),
    "onnxruntime": ("onnxruntime", "", "folding without TensorRT"),
    "deepspeed": ("deepspeed", "train", "training"),
    "mpi4py": ("mpi4py", "train", "ranks under mpirun"),
    "mlflow": ("mlflow", "train", "experiment tracking"),
    "tensorrt": ("tensorrt-cu13", "tensorrt", "TensorRT engines"),
    "tensorrt_rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx", "TensorRT-RTX engines"),
    "cuequivariance_ops_torch": ("cuequivariance-ops-torch-cu13", "cuequivariance", "triangle kernels in TensorRT engines"),
}


# What to import to know that a package really works, where its top module loads nothing of it.
PROBES = {"mpi4py": "mpi4py.MPI"}


def doctor_command() -> int:
    """Print every finding; exit code 0 unless something that is installed is broken (then 1)."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    findings = examine()
    table = Table(box=None, pad_edge=False)
    for title in ("", "topic", "detail"):
        table.add_column(title, overflow="fold")
    marks = {"works": "[green]works[/]", "absent": "[yellow]absent[/]", "broken": "[red]broken[/]", "note": "note"}
    for finding in findings:
        table.add_row(marks[finding.state], finding.topic, escape(finding.detail))
    Console().print(table)
    return int(any(f.state == "broken" for f in findings))


def examine() -> list[Finding]:
    """All findings in order; a check that raises becomes a finding, never a traceback."""
    checks: list[Callable[[], list[Finding]]] = [_machine, _packages, _devices, _mpi, _compiler, _kernels, _engines, _determinism]
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check()
        except Exception as error:
            findings.append(Finding(check.__name__.strip("_"), "broken", f"{type(error).__name__}: {error}"))
    return findings


def _machine() -> list[Finding]:
    import psutil

    memory = psutil.virtual_memory().total / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        Finding("python", "works", f"{platform.python_version()} at {sys.executable}"),
        Finding("machine", "works", f"{platform.machine()}, {cores} usable cores, {memory:.0f} GiB memory"),
    ]


def _packages() -> list[Finding]:
    return [_package(module, *known) for module, known in PACKAGES.items()]


def _package(module: str, name: str, extra: str, purpose: str) -> Finding:
    """Whether ``module`` imports, in a process of its own: a broken library may abort, and some imports are slow or loud."""
    if importlib.util.find_spec(module) is None:
        remedy = f"pip install 'foldline[{extra}]'" if extra else f"pip install {name}"
        return Finding(module, "absent", f"needed for {purpose}: {remedy}")
    code = f"import {PROBES.get(module, module)}"
    probe = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=False)
    if probe.returncode:
        last = (probe.stderr.strip().splitlines() or ["no message"])[-1]
        return Finding(module, "broken", f"import fails ({last}); reinstall {name}")
    return Finding(module, "works", f"{_version(name, module)}: {purpose}")


def _version(name: str, module: str) -> str:
    for candidate in (name, module):
        try:
            return importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "version unknown"


def _devices() -> list[Finding]:
    import torch

    if not torch.cuda.is_available():
        reason = "this torch is a CPU build" if torch.version.cuda is None else "torch sees no CUDA device or driver"
        return [Finding("gpu", "absent", f"{reason}; training and folding run on the CPU")]
    return [
        Finding("gpu", "works", f"{torch.cuda.get_device_name(i)}, {torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB")
        for i in range(torch.cuda.device_count())
    ]


def _mpi() -> list[Finding]:
    try:
        mpirun = find_mpirun()
    except FoldlineError as error:
        return [Finding("mpirun", "absent", str(error))]
    version = subprocess.run([str(mpirun), "--version"], capture_output=True, text=True, timeout=60, check=False).stdout.splitlines()
    return [Finding("mpirun", "works" if version else "broken", f"{version[0] if version else 'prints no version'} at {mpirun}")]


def _compiler() -> list[Finding]:
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    if compiler is None:
        return [Finding("compiler", "absent", "no C++ compiler; none is needed to train or fold, torch.compile on CPU wants one")]
    return [Finding("compiler", "works", f"{compiler} (not needed to train or fold)")]


def _kernels() -> list[Finding]:
    return [Finding("kernels", "works", "attention and triangle updates run as plain PyTorch; no fused backend is built in yet")]


def _engines() -> list[Finding]:
    import onnxruntime

    return [Finding("onnxruntime", "works", f"execution providers: {', '.join(onnxruntime.get_available_providers())}")]


# What of a training may differ in its last bits between two runs of the same config: topic -> why, and what fixes it.
NOT_DETERMINISTIC = {
    "CUDA scatter, index_add and gather backward": "atomic additions arrive in any order; run.deterministic = true takes ordered ones",
    "cuBLAS": "streams share a workspace, so the split of a product may change; run.deterministic = true gives each its own",
    "attention by SDPA on CUDA": "fused backward passes add with atomics; run.deterministic = true refuses or replaces them",
    "cuDNN": "benchmark mode picks algorithms by timing; run.deterministic = true switches it off",
    "number of threads on the CPU": "sums are split by run.threads; give a number, the default follows the usable cores",
    "ranks, run.micro_batch and ZeRO stage": "reductions add in another order; equal to rounding, no setting makes them bit-equal",
    "NCCL": "the order of additions follows from the number of ranks and their wiring; another allocation may round otherwise",
    "hardware and versions": "other GPUs, torch, cuBLAS or CPU kernels round otherwise; RUN/environment.json says what a run had",
}


def _determinism() -> list[Finding]:
    """No defects; bit-equality on the CPU with a given run.threads needs nothing."""
    return [Finding("not bit-equal", "note", f"{topic}: {why}") for topic, why in NOT_DETERMINISTIC.items()]
