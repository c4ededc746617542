"""ONNX Runtime over the graphs of the stages: one session each, tensors bound where they lie, nothing copied between stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FoldlineError
from ..model.config import ModelConfig
from .core import Core, copy_own_graphs, graph_hashes
from .engine_store import Built, Engine
from .graph import RECYCLED, Arrays, output_schema
from .graphs import graph_path
from .kinds import Order, Precisions, Say, common, cuda_device, cuda_missing, package_versions
from .runners import Features, Limits, Runner, State, check_recycled, check_sizes, feature_schema, last_readers, recycled_shapes
from .stages import stages

PROVIDERS: Mapping[str, Sequence[tuple[str, Mapping[str, str]]]] = {
    "tensorrt": (
        ("TensorrtExecutionProvider", {}),
        ("CUDAExecutionProvider", {"use_tf32": "0"}),
        ("CPUExecutionProvider", {}),
    ),
    "cuda": (("CUDAExecutionProvider", {"use_tf32": "0"}), ("CPUExecutionProvider", {})),
    "cpu": (("CPUExecutionProvider", {}),),
}


class OrtState:
    """A state of ONNX Runtime's values, by output name."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def fetch(self, names: Sequence[str]) -> Arrays:
        """See ``State.fetch``."""
        return {name: np.array(self.values[name].numpy(), np.float32) for name in names}


class OnnxRuntimeRunner:
    """The graphs in ``folder`` on one of ``PROVIDERS``; ``threads`` within one operator on the CPU, 0 = one per core."""

    multiple = 1

    def __init__(self, folder: Path, config: ModelConfig, device: str = "cpu", threads: int = 0) -> None:
        self.name, self.config, self.device = "onnxruntime", config, device
        self.limits: Limits = {}
        self._stages = stages(config)
        self._readers = last_readers(self._stages, output_schema(config))
        self._sessions = {stage.name: _session(graph_path(folder, stage.name), device, threads) for stage in self._stages}
        for stage in self._stages:
            wanted, found = list(stage.inputs), [value.name for value in self._sessions[stage.name].get_inputs()]
            if sorted(wanted) != sorted(found):
                raise FoldlineError(
                    f"{graph_path(folder, stage.name)} takes the inputs {found}, this version of Foldline feeds {wanted}; export again"
                )

    def start(self, features: Features, previous: State | None) -> OrtState:
        """See ``Runner.start``."""
        check_sizes(features, self)
        known = {name: self._value(features[name]) for name in feature_schema(self.config)}
        known |= self._recycled(len(features["aatype"]), previous)
        for stage in self._stages:
            session = self._sessions[stage.name]
            binding = session.io_binding()
            for name in stage.inputs:
                binding.bind_ortvalue_input(name, known[name])
            for name in stage.outputs:
                binding.bind_output(name, self._memory)
            session.run_with_iobinding(binding)
            known |= zip(stage.outputs, binding.get_outputs(), strict=True)
            for name in self._readers[stage.name]:
                del known[name]
        return OrtState({name: known[name] for name in output_schema(self.config)})

    @property
    def _memory(self) -> str:
        return "cpu" if self.device == "cpu" else "cuda"

    def _value(self, array: np.ndarray) -> Any:
        import onnxruntime

        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self._memory, 0)

    def _recycled(self, n_res: int, previous: State | None) -> dict[str, Any]:
        if previous is None:
            return {name: self._value(np.zeros(shape, np.float32)) for name, shape in recycled_shapes(self.config, n_res).items()}
        assert isinstance(previous, OrtState)  # a runner is given its own states
        given = {name: previous.values[after] for name, after in RECYCLED.items()}
        check_recycled(self.config, n_res, {name: tuple(value.shape()) for name, value in given.items()})
        return given


class OnnxRuntimeKind:
    """Engines of the graphs themselves: nothing is built, the sessions are made when the engine is opened."""

    name = "onnxruntime"

    def __init__(self) -> None:
        half = ("fp32", "bf16", "fp16")  # its CPU provider multiplies no bfloat16
        self.precisions: Precisions = {"tensorrt": half, "cuda": half, "cpu": ("fp32", "fp16")}

    def why_not(self, device: str) -> str | None:
        """See ``Kind.why_not``."""
        import onnxruntime

        provider = PROVIDERS[device][0][0]
        if provider not in onnxruntime.get_available_providers():
            return (
                f"ONNX Runtime {onnxruntime.__version__} comes without {provider}, which '--device {device}' needs; "
                "run: pip install onnxruntime-gpu in place of onnxruntime"
            )
        return None if device == "cpu" else cuda_missing(self.name)

    def why_not_build(self, device: str) -> str | None:
        """See ``Kind.why_not_build``."""
        return self.why_not(device)

    def build(self, core: Core, order: Order, folder: Path, say: Say) -> Built:
        """The core's graphs are the engine; a precision that the core lacks comes with the engine."""
        graphs = core.need_graphs(order.precision, folder)
        return Built(self._depends(core, order.precision, order.device, graphs), {"threads": order.threads})

    def depends(self, core: Core, engine: Engine) -> Mapping[str, Any]:
        """See ``Kind.depends``."""
        return self._depends(core, engine.precision, engine.device, core.graphs(engine.precision, engine.path))

    def open(self, core: Core, engine: Engine) -> Runner:
        """See ``Kind.open``."""
        graphs = core.graphs(engine.precision, engine.path)
        return OnnxRuntimeRunner(graphs, core.model, engine.device, engine.details["threads"])

    def why_not_refit(self, engine: Engine) -> str | None:
        """They always can."""
        return None

    def refit(self, core: Core, old: Engine, folder: Path) -> Built:
        """The graphs stay; where the engine brought its own, their weights are written anew."""
        copy_own_graphs(core, old.path, folder)
        graphs = core.graphs(old.precision, folder)
        return Built(self._depends(core, old.precision, old.device, graphs), old.details)

    def _depends(self, core: Core, precision: str, device: str, graphs: Path) -> dict[str, Any]:
        machine = "any" if device == "cpu" else cuda_device()
        own = {"machine": machine, "versions": package_versions("onnxruntime"), "graphs": graph_hashes(graphs)}
        return common(core, self.name, precision, device) | own


def _session(path: Path, device: str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers = [(name, dict(settings)) for name, settings in PROVIDERS[device]]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime has one exception class per status code and no common base
        raise FoldlineError(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}; export the bundle again") from None
    running = session.get_providers()
    if running[0] != providers[0][0]:  # it falls back without an error
        raise FoldlineError(
            f"ONNX Runtime {onnxruntime.__version__} could not start {providers[0][0]} and would run on {running[0]} instead"
        )
    return session
