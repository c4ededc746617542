"""One plan on the GPU: deserialised, given its weights, bound to memory, enqueued. Scratch memory is the caller's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import FoldlineError
from ...whole_file import write_atomic
from ..stages import Stage
from .backend import new_logger
from .passes import TYPES, Shapes
from .weights import assign

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    """What all plans of a runner share."""

    backend: str
    trt: Any
    logger: Any
    runtime: Any

    @classmethod
    def start(cls, backend: str, trt: Any) -> Runtime:
        """A runtime with a logger of its own."""
        logger = new_logger(trt)
        return cls(backend, trt, logger, trt.Runtime(logger))


def read_plan(runtime: Runtime, path: Path) -> Any:
    """Deserialise a plan. Raises FoldlineError with the runtime's words."""
    if not path.is_file():
        raise FoldlineError(f"{path} is missing; copy the bundle again or build the engine again")
    engine = runtime.runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise FoldlineError(
            f"{runtime.backend} {runtime.trt.__version__} cannot load {path}: {runtime.logger.reason()}; "
            "engines fit one version and one kind of GPU: build it again on this machine (foldline engine build)"
        )
    return engine


class StageEngine:
    """A ``StageExecutor`` on a plan. ``weights`` of a stripped plan: values by name, and how many parameters the stage has."""

    def __init__(
        self, runtime: Runtime, stage: Stage, path: Path, weights: tuple[Mapping[str, Tensor], int] | None, kernels: KernelStore | None
    ) -> None:
        self._runtime, self._stage = runtime, stage
        self._engine = read_plan(runtime, path)
        _check_tensors(runtime.trt, self._engine, stage, path)
        if weights is not None:
            give_weights(runtime, self._engine, *weights, stage.name, path)
        self._context = _context(runtime, self._engine, kernels)

    def prepare(self, shapes: Shapes) -> int:
        """See ``StageExecutor``."""
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise self._failed(f"refuses the shape {shape} of '{name}'")
        try:
            unknown = self._context.infer_shapes()
        except RuntimeError as error:
            raise self._failed(f"cannot take {dict(shapes)} ({error})") from None
        if unknown:
            raise self._failed(f"cannot tell the shapes of {unknown}")
        return int(self._context.update_device_memory_size_for_shapes())

    def bind(self, tensors: Mapping[str, Tensor], scratch: Tensor) -> None:
        """See ``StageExecutor``."""
        for name, tensor in tensors.items():
            found = tuple(self._context.get_tensor_shape(name))
            if found != tuple(tensor.shape) or not self._context.set_tensor_address(name, tensor.data_ptr()):
                raise self._failed(f"wants {found} for '{name}', the pass has {tuple(tensor.shape)}")
        self._context.set_device_memory(scratch.data_ptr(), scratch.numel())

    def enqueue(self) -> None:
        """See ``StageExecutor``."""
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise self._failed("failed")

    def why_not_recorded(self) -> str:
        """Why the stage cannot be part of a CUDA graph on the current stream; "" when it can. TensorRT-RTX alone can tell."""
        asked = getattr(self._context, "is_stream_capturable", None)
        if asked is None or asked(torch.cuda.current_stream().cuda_stream):
            return ""
        return f"stage '{self._stage.name}' cannot be captured"

    def _failed(self, what: str) -> FoldlineError:
        reason = self._runtime.logger.reason()
        return FoldlineError(f"the {self._runtime.backend} engine of stage '{self._stage.name}' {what}: {reason}; try another engine")


class KernelStore:
    """TensorRT-RTX compiles kernels for the GPU when it first runs a plan; they are kept in a file between calls. ``tensorrt`` has none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.cache: Any = None

    def attach(self, settings: Any) -> None:
        """Have a runtime configuration use the store; its first one makes it. A file that does not fit this machine is left unread."""
        if self.cache is None:
            self.cache = settings.create_runtime_cache()
            if self._path.is_file():
                self.cache.deserialize(self._path.read_bytes())
        settings.set_runtime_cache(self.cache)

    def save(self) -> None:
        """Write what was compiled so far. A cache folder that cannot be written costs compiling again, nothing else."""
        if self.cache is None:
            return
        try:
            write_atomic(self._path, bytes(self.cache.serialize()))
        except OSError as error:
            log.warning("compiled kernels are not kept in %s: %s", self._path, error.strerror)


def give_weights(runtime: Runtime, engine: Any, values: Mapping[str, Tensor], parameters: int, stage: str, path: Path) -> None:
    """Put ``values`` into a stripped plan. Raises FoldlineError when one does not fit, when any is missing, or when the plan refuses."""
    trt = runtime.trt
    types = {trt.float32: torch.float32, trt.float16: torch.float16, trt.bfloat16: torch.bfloat16}
    types |= {trt.int64: torch.int64, trt.int32: torch.int32, trt.bool: torch.bool}
    back = {dtype: kind for kind, dtype in types.items()}
    refitter = trt.Refitter(engine, runtime.logger)
    wanted = {name: refitter.get_weights_prototype(name) for name in refitter.get_all_weights()}
    prototypes = {name: (types.get(found.dtype), int(found.size)) for name, found in wanted.items()}
    taken = assign(prototypes, values, stage, parameters, str(path))
    for name, value in taken.items():  # ``taken`` outlives the refit: the refitter copies nothing before it
        if not refitter.set_named_weights(name, trt.Weights(back[value.dtype], value.data_ptr(), value.numel())):
            raise FoldlineError(f"{path} refuses the weights '{name}': {runtime.logger.reason()}; build the engine again")
    missing = refitter.get_missing_weights()
    if missing or not refitter.refit_cuda_engine():
        reason = f"it misses {', '.join(missing[:5])}" if missing else runtime.logger.reason()
        raise FoldlineError(f"{path} does not take its weights: {reason}; build the engine again")


def _context(runtime: Runtime, engine: Any, kernels: KernelStore | None) -> Any:
    """An execution context whose scratch memory we supply."""
    trt = runtime.trt
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if kernels is None:
        context = engine.create_execution_context(strategy)
    else:
        settings = engine.create_runtime_config()
        settings.set_execution_context_allocation_strategy(strategy)
        kernels.attach(settings)
        context = engine.create_execution_context(settings)
    if context is None:
        raise FoldlineError(f"{runtime.backend} {trt.__version__} cannot run an engine here: {runtime.logger.reason()}")
    return context


def _check_tensors(trt: Any, engine: Any, stage: Stage, path: Path) -> None:
    """The plan's tensors are the stage's, with its types."""
    types = {trt.float32: torch.float32, trt.int64: torch.int64}
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    found = {name: types.get(engine.get_tensor_dtype(name)) for name in names}
    expected = {name: TYPES[field.kind] for name, field in (*stage.inputs.items(), *stage.outputs.items())}
    if found != expected:
        wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise FoldlineError(f"{path} has other tensors than this version of Foldline feeds ({', '.join(wrong)}); build the engine again")
