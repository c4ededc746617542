"""A whole pass as one plan: ONNX -> engine file -> runner."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...errors import FoldlineError
from ...model.config import ModelConfig
from ..graph import input_schema, output_schema
from ..profiles import Profile
from ..runners import Features, State, TensorState, check_sizes, recycled_tensors, to_tensors
from .backend import load, new_logger, why_not


def build_engine(backend: str, onnx_path: Path, profile: Profile, config: ModelConfig, path: Path, compute_capability: str = "") -> str:
    """Parse ``onnx_path``, build an engine for ``profile``, write it to ``path`` and return its identity hash.

    TensorRT tunes on the GPU it builds on; TensorRT-RTX builds without one, for ``compute_capability`` ("8.9"; "" = its default).
    Raises FoldlineError with the parser's or builder's own words.
    """
    trt = load(backend)
    logger = new_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_path.read_bytes()):
        errors = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
        raise FoldlineError(f"{backend} {trt.__version__} cannot parse {onnx_path.name}: {errors}")
    settings = builder.create_builder_config()
    settings.clear_flag(trt.BuilderFlag.TF32)  # the gate compares with float32
    shapes = builder.create_optimization_profile()
    for name, schema in input_schema(config).items():
        shapes.set_shape(name, *profile.shapes(schema.dims))
    settings.add_optimization_profile(shapes)
    if compute_capability:
        _build_for(trt, settings, backend, compute_capability)
    plan = builder.build_serialized_network(network, settings)
    if plan is None:
        raise FoldlineError(f"{backend} {trt.__version__} cannot build {onnx_path.name} for profile {profile.name}: {logger.reason()}")
    path.write_bytes(plan)
    return engine_identity(backend, trt.__version__, onnx_path, profile, compute_capability or _this_gpu())


def engine_identity(backend: str, version: str, onnx_path: Path, profile: Profile, compute_capability: str) -> str:
    """sha256 over everything an engine depends on: equal identities are interchangeable engines."""
    facts = {
        "backend": backend,
        "version": version,
        "onnx": hashlib.sha256(onnx_path.read_bytes()).hexdigest(),
        "profile": {name: list(sizes) for name, sizes in sorted(profile.sizes.items())},
        "compute_capability": compute_capability,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class TensorRTRunner:
    """An engine file on the first CUDA device; tensors are PyTorch's."""

    multiple = 1

    def __init__(self, backend: str, path: Path, config: ModelConfig, limits: Mapping[str, tuple[int, int]]) -> None:
        reason = why_not(backend)
        if reason is not None:
            raise FoldlineError(reason)
        self._trt = load(backend)
        self.name, self.config, self.limits = backend, config, limits
        self._logger = new_logger(self._trt)
        self._runtime = self._trt.Runtime(self._logger)  # outlives the engine
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise FoldlineError(
                f"{backend} {self._trt.__version__} cannot load {path}: {self._logger.reason()}; "
                "engines fit one version and one kind of GPU: export the bundle again on this machine"
            )
        self._context = self._engine.create_execution_context()
        self._stream = torch.cuda.Stream()

    def start(self, features: Features, previous: State | None) -> TensorState:
        """See ``Runner.start``."""
        check_sizes(features, self)
        device = torch.device("cuda")
        with torch.cuda.stream(self._stream):
            given = to_tensors(features, self.config, device) | recycled_tensors(self.config, len(features["aatype"]), previous, device)
            for name, tensor in given.items():
                self._context.set_input_shape(name, tuple(tensor.shape))
                self._context.set_tensor_address(name, tensor.data_ptr())
            made = {name: torch.empty(tuple(self._context.get_tensor_shape(name)), device="cuda") for name in output_schema(self.config)}
            for name, tensor in made.items():
                self._context.set_tensor_address(name, tensor.data_ptr())
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise FoldlineError(f"the {self.name} engine failed: {self._logger.reason()}; try --engine onnxruntime")
        self._stream.synchronize()
        return TensorState(made)


def _build_for(trt: Any, settings: Any, backend: str, compute_capability: str) -> None:
    name = "SM" + compute_capability.replace(".", "")
    known = getattr(trt, "ComputeCapability", None)
    if backend != "tensorrt_rtx" or known is None or name not in known.__members__:
        valid = (
            ", ".join(known.__members__)
            if known is not None and backend == "tensorrt_rtx"
            else "none: it builds for the GPU in this machine"
        )
        raise FoldlineError(f"compute_capability = '{compute_capability}' is no target of {backend} {trt.__version__}; targets: {valid}")
    settings.num_compute_capabilities = 1
    settings.set_compute_capability(known.__members__[name], 0)


def _this_gpu() -> str:
    if not torch.cuda.is_available():
        return "default"
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor} {torch.cuda.get_device_name()}"
