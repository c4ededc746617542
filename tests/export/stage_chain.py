"""The stages of a pass run one after another, each fed by name, on any engine that takes and gives named arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import jaxtyping
import numpy as np
import onnxruntime
import torch

from foldline.data_store.config import FeatureConfig
from foldline.data_store.featurize import inference_cycles
from foldline.data_store.types import ChainRecord
from foldline.export.graph import RECYCLED, Arrays, feeds_of
from foldline.export.graphs import OPSET, graph_path, write_graphs
from foldline.export.stages import POLICIES, Stage, stage_modules, stages
from foldline.model.alphafold import AlphaFold
from foldline.model.config import ModelConfig
from foldline.model.precision import FP32, apply_precision
from foldline.tests.export.cases import with_templates

RunStage = Callable[[Stage, Mapping[str, np.ndarray]], list[np.ndarray]]


def chain(config: ModelConfig, feeds: Mapping[str, np.ndarray], run: RunStage) -> Arrays:
    """Every tensor of one pass by name: what was fed and what each stage made."""
    known = dict(feeds)
    for stage in stages(config):
        made = run(stage, {name: known[name] for name in stage.inputs})
        known |= zip(stage.outputs, made, strict=True)
    return known


def passes(config: ModelConfig, feeds: Mapping[str, np.ndarray], run: RunStage, count: int) -> Arrays:
    """``count`` passes on the same features, each from what the one before left; the last one's tensors."""
    known = chain(config, feeds, run)
    for _ in range(count - 1):
        known = chain(config, dict(feeds) | {before: known[after] for before, after in RECYCLED.items()}, run)
    return known


def torch_stages(model: AlphaFold, precision: str = "fp32") -> RunStage:
    """PyTorch in the same precision policy."""
    modules = stage_modules(model)

    def run(stage: Stage, given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        apply_precision(model, POLICIES[precision])
        with torch.inference_mode():
            made = modules[stage.name](*(torch.from_numpy(array) for array in given.values()))
        apply_precision(model, FP32)
        return [tensor.numpy() for tensor in made]

    return run


def onnxruntime_stages(folder: Path) -> RunStage:
    """The graphs in ``folder`` on ONNX Runtime's CPU provider, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    sessions: dict[str, onnxruntime.InferenceSession] = {}

    def run(stage: Stage, given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if stage.name not in sessions:
            path = str(graph_path(folder, stage.name))
            sessions[stage.name] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return list(sessions[stage.name].run(list(stage.outputs), dict(given)))

    return run


def write_quickly(model: AlphaFold, folder: Path, precision: str, opset: int = OPSET) -> None:
    """``write_graphs`` without the tests' shape checks: on traced tensors they cost more than the trace."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        write_graphs(model, folder, precision, opset)
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def real_feeds(record: ChainRecord, config: ModelConfig, clusters: int, extra: int, templates: int) -> Arrays:
    """The arrays of a first pass on a real chain, its own coordinates as templates."""
    features = FeatureConfig(max_msa_clusters=clusters, max_extra_msa=extra, max_templates=templates)
    (batch,) = inference_cycles(with_templates(record, 2), features, 0, 1)
    return feeds_of(batch, config, None)
