"""The packages ``tensorrt`` and ``tensorrt_rtx`` behind one import: version, logger, GPU, targets. The only file that imports either.

Both have the same API from TensorRT 10.14 on: networks are strongly typed, so precision is what the ONNX file says.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...errors import FoldlineError, missing_package

EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}  # module: the extra that installs it
OLDEST = (10, 14)  # of module tensorrt; before it, precision came from builder flags
TARGETS = ("8.0", "8.6", "8.9", "12.0")  # of a TensorRT-RTX engine built without a GPU: one plan holds them all at no further bytes


def load(backend: str) -> Any:
    """Import ``tensorrt`` or ``tensorrt_rtx``. Raises FoldlineError with the reason when it is missing, broken or too old."""
    try:
        module = importlib.import_module(backend)
    except ModuleNotFoundError:
        raise missing_package(backend, EXTRAS[backend], f"engine '{backend}'") from None
    except (ImportError, OSError) as error:
        raise FoldlineError(f"engine '{backend}': its package is installed but does not load: {error}; install it again") from None
    version = tuple(int(part) for part in module.__version__.split(".")[:2])
    if backend == "tensorrt" and version < OLDEST:
        raise FoldlineError(
            f"engine 'tensorrt': version {module.__version__} is older than 10.14; run: pip install -U 'foldline[tensorrt]'"
        )
    return module


def why_not(backend: str) -> str | None:
    """Why engines of ``backend`` cannot run on this machine; None when they can."""
    try:
        load(backend)
    except FoldlineError as error:
        return str(error)
    if not torch.cuda.is_available():
        return (
            f"engine '{backend}' needs an NVIDIA GPU, and PyTorch ({torch.__version__}) sees none; use --engine onnxruntime on this machine"
        )
    return None


def this_gpu() -> dict[str, str] | None:
    """``name`` and ``compute_capability`` ("9.0") of the first GPU; None where there is none."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return {"name": torch.cuda.get_device_name(), "compute_capability": f"{major}.{minor}"}


def target_members(trt: Any, backend: str, targets: tuple[str, ...]) -> list[Any]:
    """The ``ComputeCapability`` members of targets such as "8.9". Raises FoldlineError for what the backend cannot build for."""
    # Full TensorRT tunes on the GPU that it builds on.
    known: Mapping[str, Any] = trt.ComputeCapability.__members__ if backend == "tensorrt_rtx" else {}
    members = []
    for target in targets:
        name = "SM" + target.replace(".", "")
        if name not in known:
            valid = ", ".join(f"{n[2:-1]}.{n[-1]}" for n in known if n.startswith("SM")) or "none: it builds for the GPU in this machine"
            raise FoldlineError(f"compute capability '{target}' is no target of {backend} {trt.__version__}; targets: {valid}")
        members.append(known[name])
    return members


def cache_folder(wanted: Path | None = None) -> Path:
    """Where timings and compiled kernels are kept between calls: ``wanted``, FOLDLINE_CACHE, or the user's cache folder."""
    named = wanted or os.environ.get("FOLDLINE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "foldline"
    return Path(named)


def new_logger(trt: Any) -> Any:
    """A logger that keeps errors for our own messages and prints nothing."""

    class Quiet(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(" ".join(message.split()))

        def reason(self) -> str:
            """What went wrong first since the last call: later errors follow from it."""
            found, self.errors = self.errors, []
            return found[0] if found else "no reason given"

    return Quiet()
