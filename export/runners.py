"""Runners: the same pass of the network by PyTorch, ONNX Runtime or TensorRT, behind one small protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..data_store.types import FeatureBatch, FieldSchema
from ..errors import FoldlineError
from ..model.alphafold import AlphaFold
from ..model.config import ModelConfig
from .graph import Arrays, FoldPass, crop_outputs, feeds_of, input_schema, output_schema, pad_feeds, sizes_of


class Runner(Protocol):
    """One engine. ``limits`` maps a dimension's name to (smallest, largest) size; a dimension that it leaves out is free."""

    name: str
    config: ModelConfig
    limits: Mapping[str, tuple[int, int]]

    def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """One pass: the arrays of ``input_schema(config)`` -> those of ``output_schema(config)``, float32.

        Raises FoldlineError when a size is outside ``limits``, ValueError when an array is missing or misshapen.
        """
        ...


class TorchRunner:
    """PyTorch in float32: what the others are measured against."""

    def __init__(self, model: AlphaFold, device: str = "cpu") -> None:
        self.name, self.config, self.device = "torch", model.config, torch.device(device)
        self.limits: Mapping[str, tuple[int, int]] = {}
        self._pass = FoldPass(model).float().to(self.device).eval()

    def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """See ``Runner.run``."""
        schema = input_schema(self.config)
        check_sizes(feeds, schema, self.limits, self.name)
        with torch.inference_mode():
            outputs = self._pass(*(torch.tensor(feeds[name], device=self.device) for name in schema))
        return {name: tensor.cpu().numpy() for name, tensor in zip(self._pass.outputs, outputs, strict=True)}


class OnnxRuntimeRunner:
    """The ONNX file on ONNX Runtime's CPU provider; ``threads`` within one operator, 0 = one per core."""

    def __init__(self, path: Path, config: ModelConfig, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.name, self.config = "onnxruntime", config
        self.limits: Mapping[str, tuple[int, int]] = {}
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has one exception class per status code and no common base
            raise FoldlineError(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}; export the bundle again") from None
        wanted, found = list(input_schema(config)), [value.name for value in self._session.get_inputs()]
        if wanted != found:
            raise FoldlineError(f"{path} takes the inputs {found}, this version of Foldline feeds {wanted}; export the bundle again")

    def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """See ``Runner.run``."""
        schema = input_schema(self.config)
        check_sizes(feeds, schema, self.limits, self.name)
        names = list(output_schema(self.config))
        return dict(zip(names, self._session.run(names, {name: feeds[name] for name in schema}), strict=True))


def check_sizes(
    feeds: Mapping[str, np.ndarray], schema: Mapping[str, FieldSchema], limits: Mapping[str, tuple[int, int]], runner: str
) -> dict[str, int]:
    """The sizes of ``feeds``; FoldlineError when one is outside the runner's limits, ValueError when they contradict the schema."""
    sizes = sizes_of(feeds, schema)
    for name, size in sizes.items():
        low, high = limits.get(name, (0, size))
        if not low <= size <= high:
            raise FoldlineError(
                f"{name} = {size} is outside {low}..{high}, which the {runner} engine was built for; {_way_out(name, size > high)}"
            )
    return sizes


def run_fitted(runner: Runner, feeds: Mapping[str, np.ndarray]) -> Arrays:
    """``runner.run`` with inputs padded up to the runner's smallest sizes and the padding cut off again."""
    schema = input_schema(runner.config)
    n_res = sizes_of(feeds, schema)["N_res"]
    smallest = {name: low for name, (low, _) in runner.limits.items()}
    return crop_outputs(runner.run(pad_feeds(feeds, schema, smallest)), output_schema(runner.config), n_res)


def fold_cycles(runner: Runner, cycles: Sequence[FeatureBatch], on_pass: Callable[[int], None] = lambda done: None) -> Arrays:
    """One pass per feature set (numpy, unbatched), each fed by the one before; the last pass's outputs (Algorithm 31).

    ``on_pass`` is told the number of passes done.
    """
    outputs: Arrays | None = None
    for done, batch in enumerate(cycles, 1):
        outputs = run_fitted(runner, feeds_of(batch, runner.config, outputs))
        on_pass(done)
    if outputs is None:
        raise ValueError("fold_cycles needs at least one feature set")
    return outputs


def _way_out(name: str, too_large: bool) -> str:
    if not too_large:
        return "pad the inputs (runners.run_fitted does)"
    return "use a bundle exported with --engine onnxruntime, which takes any size" if name == "N_res" else "use fewer rows"
