"""Who is measured beside an engine: PyTorch in float32, PyTorch in the engine's precision, and PyTorch compiled."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial

import torch

from ..errors import FoldlineError
from .bench import BenchReport, Factory, run_bench
from .config import BenchConfig, ExportConfig
from .core import Core
from .engine_store import Engine
from .engines import open_engine
from .gate_proteins import Selection
from .runners import TorchRunner


def measure(core: Core, engine: Engine, selection: Selection, config: ExportConfig, say: Callable[[str], None]) -> BenchReport:
    """``run_bench`` of an engine beside PyTorch, on the device that the engine runs on."""
    given, left_out = contenders(core, engine, config.bench)
    device = torch_device(engine)
    return run_bench(
        given,
        selection,
        core.features,
        config.gate.recycles + 1,
        config.bench,
        device=device,
        machine=machine_name(device),
        left_out=left_out,
        on_step=lambda text: say(f"bench: {text}"),
    )


def contenders(core: Core, engine: Engine, config: BenchConfig) -> tuple[dict[str, Factory], list[str]]:
    """Name -> what opens it, PyTorch in float32 first and the engine last; and what is left out, with the reason."""
    device, precision = torch_device(engine), engine.precision
    own = partial(pytorch, core, device)
    given: dict[str, Factory] = {"PyTorch fp32": partial(own, "fp32", False)}
    left_out = []
    reduced = precision == "fp16" and device == "cpu"
    if reduced:
        left_out.append("PyTorch in fp16: its products are emulated on a CPU")
    elif precision != "fp32":
        given[f"PyTorch {precision}"] = partial(own, precision, False)
    obstacle = "export.bench.compile = never" if config.compile == "never" else _no_compiler(device)
    if obstacle and config.compile == "always":
        raise FoldlineError(f"torch.compile: {obstacle}; install it, set CXX, or give --set export.bench.compile=never")
    if obstacle:
        left_out.append(f"torch.compile: {obstacle}")
    else:
        given[f"torch.compile {'fp32' if reduced else precision}"] = partial(own, "fp32" if reduced else precision, True)
    return given | {f"{engine.kind} engine": partial(open_engine, core, engine)}, left_out


def pytorch(core: Core, device: str, precision: str, compiled: bool) -> TorchRunner:
    """PyTorch with the core's weights."""
    return TorchRunner(core.network(), device, precision, compiled=compiled)


def torch_device(engine: Engine) -> str:
    """Where PyTorch stands beside the engine: "cpu" or "cuda"."""
    return "cpu" if engine.device == "cpu" else "cuda"


def machine_name(device: str) -> str:
    """For the report."""
    threads = torch.get_num_threads()
    return torch.cuda.get_device_name() if device == "cuda" else f"a CPU, {threads} {'thread' if threads == 1 else 'threads'} of PyTorch"


def _no_compiler(device: str) -> str:
    """Why torch.compile cannot work; "" where it can."""
    compiler = os.environ.get("CXX", "g++")
    missing = device == "cpu" and shutil.which(compiler) is None
    return f"it needs a C++ compiler on a CPU, and '{compiler}' is not there" if missing else ""
