"""The kinds of engines: what each needs, how it is built, opened and refitted, behind one protocol. What an engine depends on, by name."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch

from ..errors import FoldlineError
from ..settings import to_dict
from .bundle import hash_of
from .config import NO_PLUGINS, TensorRTConfig
from .core import Core
from .engine_store import Built, Engine
from .runners import Runner

Say = Callable[[str], None]
Precisions = Mapping[str, Sequence[str]]
WITH_PLUGINS = "tensorrt"  # the one kind whose package takes plugins written in Python


@dataclass(frozen=True)
class Order:
    """What is asked of an engine. ``device`` "auto": the best that works here; ``lengths``: the N_res that TensorRT tunes for."""

    precision: str = "fp32"
    device: str = "auto"
    lengths: tuple[int, ...] = (128, 256, 384, 512)
    threads: int = 0  # within one operator, on the CPU; 0 = one per core
    compute_capability: str = ""  # of the GPU to build for, "8.9"; "" = the one in this machine
    tensorrt: TensorRTConfig = field(default_factory=TensorRTConfig)
    plugins: str = NO_PLUGINS  # whose kernels stand in the graphs: one of ``config.PLUGINS``


class Kind(Protocol):
    """One kind of engine.

    ``devices``: what it can run on, the best first; ``precisions``: device -> those it computes in there.
    """

    name: str
    precisions: Precisions

    def why_not(self, device: str) -> str | None:
        """Why it does not run on ``device`` of this machine; None when it does."""
        ...

    def why_not_build(self, device: str) -> str | None:
        """Why it cannot be built for ``device`` on this machine; None when it can."""
        ...

    def build(self, core: Core, order: Order, folder: Path, say: Say) -> Built:
        """Fill ``folder``. ``order.device`` is one that ``why_not_build`` allows."""
        ...

    def depends(self, core: Core, engine: Engine) -> Mapping[str, Any]:
        """What a sealed engine would depend on if it were built here and now."""
        ...

    def open(self, core: Core, engine: Engine) -> Runner:
        """The runner of an engine whose dependencies hold."""
        ...

    def why_not_refit(self, engine: Engine) -> str | None:
        """Why its weights cannot be exchanged; None when they can."""
        ...

    def refit(self, core: Core, old: Engine, folder: Path) -> Built:
        """Fill ``folder`` with ``old`` under the weights of ``core``, which is another core of the same network."""
        ...


def kinds() -> dict[str, Kind]:
    """Name -> kind, the fastest on a GPU first; ``auto`` takes the first that runs."""
    from .kind_tensorrt import TensorRTKind
    from .runners_aoti import AOTInductorKind
    from .runners_onnx import OnnxRuntimeKind
    from .runners_torch import TorchKind

    every: list[Kind] = [
        TensorRTKind("tensorrt"),
        TensorRTKind("tensorrt_rtx"),
        AOTInductorKind(),
        OnnxRuntimeKind(),
        TorchKind("torch-compile"),
        TorchKind("torch"),
    ]
    return {kind.name: kind for kind in every}


def find_kind(name: str) -> Kind:
    """The kind of that name. Raises FoldlineError for any other."""
    every = kinds()
    if name not in every:
        raise FoldlineError(f"engine '{name}' is unknown; choose from auto, {', '.join(every)}")
    return every[name]


def settle(kind: Kind, order: Order) -> Order:
    """``order`` with its device chosen; device, precision and plugins are checked. FoldlineError with the reason of every refusal."""
    if order.plugins != NO_PLUGINS and kind.name != WITH_PLUGINS:
        raise FoldlineError(
            f"export.plugins = '{order.plugins}': engine '{kind.name}' takes plain graphs alone, plugins are for '{WITH_PLUGINS}'; "
            f"build that kind, or leave export.plugins = '{NO_PLUGINS}'"
        )
    wanted = list(kind.precisions) if order.device == "auto" else [order.device]
    refusals = []
    for device in wanted:
        if device not in kind.precisions:
            raise FoldlineError(f"engine '{kind.name}' has no device '{device}'; choose from auto, {', '.join(kind.precisions)}")
        if order.precision not in kind.precisions[device]:
            refusals.append(f"on {device} it computes in {' or '.join(kind.precisions[device])}, not {order.precision}")
            continue
        reason = kind.why_not_build(device)
        if reason is None:
            return replace(order, device=device)
        refusals.append(reason)
    raise FoldlineError(f"engine '{kind.name}' cannot be built here: {'; '.join(refusals)}")


def common(core: Core, kind: str, precision: str, device: str) -> dict[str, Any]:
    """What engines of every kind depend on."""
    model = hash_of(to_dict(core.model))
    return {"kind": kind, "precision": precision, "device": device, "weights": core.weights_sha256, "model": model}


def cuda_device() -> str:
    """The first CUDA device: compute capability and name."""
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor} {torch.cuda.get_device_name()}"


def host() -> str:
    """The processor family and its widest vector instructions: what compiled code for the CPU needs."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def cuda_missing(engine: str) -> str | None:
    """Why nothing runs on a GPU here; None when PyTorch sees one."""
    if torch.cuda.is_available():
        return None
    return f"engine '{engine}' on cuda needs an NVIDIA GPU, and PyTorch ({torch.__version__}) sees none"


def package_versions(*packages: str) -> dict[str, str]:
    """Versions of those packages that are installed, under any of the names that GPU builds have."""
    found: dict[str, str] = {}
    for package in packages:
        dashed = package.replace("_", "-")
        for name in (package, f"{dashed}-gpu", f"{dashed}-cu13", f"{dashed}-cu12"):
            try:
                found.setdefault(package, version(name))
            except PackageNotFoundError:
                continue
    return found
