"""Runners: one pass of the network by PyTorch or an engine, behind one small protocol. Numpy stands at both ends, the device between."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..data_store.types import FeatureBatch, FieldSchema
from ..errors import FoldlineError
from ..model.alphafold import AlphaFold
from ..model.config import ModelConfig
from ..model.precision import apply_precision
from ..model.remat import Blocks
from .graph import DTYPES, RECYCLED, Arrays, FoldPass, crop_outputs, input_schema, output_schema, pad_feeds, sizes_of
from .stages import Stage, find_policy

Features = Mapping[str, np.ndarray]
Limits = Mapping[str, tuple[int, int]]


class State(Protocol):
    """The results of one pass, where the engine made them. Good until the next ``start`` of its runner has returned."""

    def fetch(self, names: Sequence[str]) -> Arrays:
        """Copies of these outputs of ``output_schema``, float32."""
        ...


class Runner(Protocol):
    """One engine. ``limits`` maps a dimension's name to (smallest, largest) size; a dimension that it leaves out is free.

    ``multiple``: what N_res must be a multiple of. ``fit`` pads features accordingly.
    """

    name: str
    config: ModelConfig
    limits: Limits
    multiple: int

    def start(self, features: Features, previous: State | None) -> State:
        """One pass over the arrays of ``feature_schema(config)``; others are not read.

        ``previous``: what this runner made of the same chain in the pass before, None in the first. Its recycled tensors go from pass to
        pass without leaving the device. Raises FoldlineError when a size is outside the runner's limits, ValueError when an array is
        missing or misshapen.
        """
        ...


class ArrayState:
    """A state whose results lie in host memory."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays

    def fetch(self, names: Sequence[str]) -> Arrays:
        """See ``State.fetch``."""
        return {name: np.array(self.arrays[name], np.float32) for name in names}


class TensorState:
    """A state of PyTorch tensors on any device, by output name."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def fetch(self, names: Sequence[str]) -> Arrays:
        """See ``State.fetch``."""
        return {name: self.tensors[name].detach().to("cpu", torch.float32, copy=True).numpy() for name in names}


class TorchRunner:
    """PyTorch; on the CPU, eager and in float32 it is what the others are measured against.

    ``precision``: "" as the model computes, which is in float32 unless a policy was applied to it. ``compiled``: the blocks of every stack
    are compiled when they first run, one compilation for all blocks alike.
    """

    multiple = 1

    def __init__(self, model: AlphaFold, device: str = "cpu", precision: str = "", compiled: bool = False) -> None:
        self.name, self.config, self.device = "torch-compile" if compiled else "torch", model.config, torch.device(device)
        self.limits: Limits = {}
        own = copy.deepcopy(model).float().to(self.device).eval()
        if precision:
            apply_precision(own, find_policy(precision))
        if compiled:
            compile_blocks(own)
        self._pass = FoldPass(own)

    def start(self, features: Features, previous: State | None) -> TensorState:
        """See ``Runner.start``."""
        check_sizes(features, self)
        given = to_tensors(features, self.config, self.device)
        with torch.inference_mode():
            given |= recycled_tensors(self.config, len(features["aatype"]), previous, self.device)
            made = self._pass(*(given[name] for name in self._pass.inputs))
        return TensorState(dict(zip(self._pass.outputs, made, strict=True)))


def compile_blocks(model: AlphaFold) -> int:
    """Compile every block of every stack in place, for any size; returns how many there are."""
    blocks = [block for stack in model.modules() if isinstance(stack, Blocks) for block in stack]
    for block in blocks:
        block.compile(dynamic=True)
    return len(blocks)


class OnnxRuntimeRunner:
    """The ONNX file on ONNX Runtime's CPU provider; ``threads`` within one operator, 0 = one per core."""

    multiple = 1

    def __init__(self, path: Path, config: ModelConfig, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.name, self.config = "onnxruntime", config
        self.limits: Limits = {}
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has one exception class per status code and no common base
            raise FoldlineError(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}; export the bundle again") from None
        wanted, found = list(input_schema(config)), [value.name for value in self._session.get_inputs()]
        if wanted != found:
            raise FoldlineError(f"{path} takes the inputs {found}, this version of Foldline feeds {wanted}; export the bundle again")

    def start(self, features: Features, previous: State | None) -> ArrayState:
        """See ``Runner.start``."""
        check_sizes(features, self)
        schema = input_schema(self.config)
        recycled = recycled_arrays(self.config, len(features["aatype"]), previous)
        names = list(output_schema(self.config))
        feeds = {name: features[name] for name in schema if name not in RECYCLED} | recycled
        return ArrayState(dict(zip(names, self._session.run(names, feeds), strict=True)))


def feature_schema(config: ModelConfig) -> dict[str, FieldSchema]:
    """Name -> schema of what a pass reads of the chain: its inputs without the recycled tensors."""
    return {name: schema for name, schema in input_schema(config).items() if name not in RECYCLED}


def result_names(config: ModelConfig) -> list[str]:
    """The outputs that are results: all but the recycled tensors."""
    return [name for name in output_schema(config) if name not in RECYCLED.values()]


def features_of(batch: FeatureBatch, config: ModelConfig) -> Arrays:
    """The arrays of one pass from a feature set (numpy, unbatched)."""
    return {name: np.ascontiguousarray(getattr(batch, name), DTYPES[kind]) for name, (kind, _) in feature_schema(config).items()}


def check_sizes(features: Features, runner: Runner) -> dict[str, int]:
    """The sizes of ``features``; FoldlineError when the runner does not take one, ValueError when they contradict the schema."""
    sizes = sizes_of(features, feature_schema(runner.config))
    for name, size in sizes.items():
        low, high = runner.limits.get(name, (0, size))
        if not low <= size <= high:
            raise FoldlineError(
                f"{name} = {size} is outside {low}..{high}, which the {runner.name} engine was built for; {_way_out(name, size > high)}"
            )
    if sizes["N_res"] % runner.multiple:
        raise FoldlineError(
            f"N_res = {sizes['N_res']} is no multiple of {runner.multiple}, which the {runner.name} engine was built for; {PADS}"
        )
    return sizes


def fit(features: Features, runner: Runner) -> Arrays:
    """Pad ``features`` with zeros up to the runner's smallest sizes and multiple: masks are zero there, so nothing real changes."""
    schema = feature_schema(runner.config)
    sizes = {name: max(size, runner.limits.get(name, (0, 0))[0]) for name, size in sizes_of(features, schema).items()}
    sizes["N_res"] += -sizes["N_res"] % runner.multiple
    return pad_feeds(features, schema, sizes)


def run_fitted(runner: Runner, features: Features) -> Arrays:
    """One first pass: ``features`` are padded to fit the runner; all outputs, without the padding."""
    schema = output_schema(runner.config)
    return crop_outputs(runner.start(fit(features, runner), None).fetch(list(schema)), schema, len(features["aatype"]))


def to_tensors(features: Features, config: ModelConfig, device: torch.device) -> dict[str, Tensor]:
    """The features on ``device``."""
    return {name: torch.tensor(features[name], device=device) for name in feature_schema(config)}


def recycled_tensors(config: ModelConfig, n_res: int, previous: State | None, device: torch.device) -> dict[str, Tensor]:
    """The recycled inputs of a pass: the state's own tensors, zeros in the first pass."""
    if previous is None:
        return {name: torch.zeros(shape, device=device) for name, shape in recycled_shapes(config, n_res).items()}
    assert isinstance(previous, TensorState)  # a runner is given its own states
    given = {name: previous.tensors[after] for name, after in RECYCLED.items()}
    check_recycled(config, n_res, {name: tuple(tensor.shape) for name, tensor in given.items()})
    return given


def recycled_arrays(config: ModelConfig, n_res: int, previous: State | None) -> Arrays:
    """``recycled_tensors`` for states in host memory."""
    if previous is None:
        return {name: np.zeros(shape, np.float32) for name, shape in recycled_shapes(config, n_res).items()}
    assert isinstance(previous, ArrayState)
    given = {name: previous.arrays[after] for name, after in RECYCLED.items()}
    check_recycled(config, n_res, {name: array.shape for name, array in given.items()})
    return given


def recycled_shapes(config: ModelConfig, n_res: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the recycled inputs at this length."""
    schema = input_schema(config)
    return {name: tuple(d if isinstance(d, int) else n_res for d in schema[name].dims) for name in RECYCLED}


def check_recycled(config: ModelConfig, n_res: int, found: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError where a state's recycled tensors have other shapes than this length needs."""
    for name, shape in recycled_shapes(config, n_res).items():
        if found[name] != shape:
            raise ValueError(f"input '{name}' has shape {found[name]}, the pass wants {shape}: the state is of another chain")


def last_readers(stages: Sequence[Stage], kept: Collection[str]) -> dict[str, list[str]]:
    """Stage name -> the tensors that no later stage reads; those in ``kept`` live on."""
    last = {name: stage.name for stage in stages for name in (*stage.outputs, *stage.inputs)}
    return {stage.name: [name for name, reader in last.items() if reader == stage.name and name not in kept] for stage in stages}


PADS = "pad the inputs (runners.fit does)"


def _way_out(name: str, too_large: bool) -> str:
    if not too_large:
        return PADS
    return "use an engine of kind onnxruntime or torch, which take any size" if name == "N_res" else "use fewer rows"
