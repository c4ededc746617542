"""The network as ONNX files: one per stage, one file of weights for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import torch

from ..errors import FoldlineError
from ..model.alphafold import AlphaFold
from .config import NO_PLUGINS
from .pieces import stage_pieces
from .plugins import takes_any
from .stages import Stage, find_policy, stages
from .stitching import Stitcher
from .weight_file import place_weights, write_weights

OPSET = 18
OPSETS = range(17, 21)  # layer norm is one node from 17 on; the tracer knows none beyond 20


def graph_path(folder: Path, stage: str) -> Path:
    """Where the graph of a stage stands in a folder that ``write_graphs`` filled."""
    return folder / f"{stage}.onnx"


def write_graphs(model: AlphaFold, folder: Path, precision: str, opset: int = OPSET, plugins: str = NO_PLUGINS) -> None:
    """Write ``STAGE.onnx`` for every stage of ``model`` and the one file of weights that all of them read into the existing ``folder``.

    Every length is dynamic. Initialisers have their parameters' names, in the type they are multiplied in, and nothing is folded: two sets
    of weights give the same graphs, byte for byte, and ``weight_file.write_weights`` replaces the weights alone. Each file passes ONNX's
    checker and strict inference. ``plugins``: one of ``config.PLUGINS``; with "cuequivariance" triangle updates are its nodes where its
    kernels take them, and the weights file is the same. Raises FoldlineError for an unknown precision or opset, for weights that the type
    cannot hold, and where plugins are asked for that take nothing of this network.
    """
    if opset not in OPSETS:
        raise FoldlineError(f"opset {opset} is outside {OPSETS[0]}..{OPSETS[-1]}; set export.opset = {OPSET}")
    products = find_policy(precision).products
    if plugins != NO_PLUGINS and not takes_any(model, getattr(torch, products)):
        raise FoldlineError(
            f"export.plugins = '{plugins}' takes no triangle update of this network in {precision}: heads are to have a multiple of 8 "
            f"(fp32: 4) channels, multiplications a multiple of 32; leave export.plugins = '{NO_PLUGINS}'"
        )
    graphs = dict(_graphs(model, precision, opset, plugins != NO_PLUGINS))
    place_weights([proto.graph for proto in graphs.values()], dict(model.named_parameters()))
    for stage, proto in graphs.items():
        onnx.save(proto, graph_path(folder, stage))
    write_weights(folder, dict(model.named_parameters()))
    for stage in graphs:
        onnx.checker.check_model(str(graph_path(folder, stage)), full_check=True)


def _graphs(model: AlphaFold, precision: str, opset: int, plugins: bool) -> Iterator[tuple[str, onnx.ModelProto]]:
    pieces, stitcher = stage_pieces(model), Stitcher(model, precision, opset, plugins)
    for stage in stages(model.config):
        proto = stitcher.stage(stage, pieces[stage.name])
        _check_inputs(stage, proto)
        yield stage.name, proto


def _check_inputs(stage: Stage, proto: onnx.ModelProto) -> None:
    """A stage reads every one of its inputs: an engine refuses or forgets idle ones."""
    read = {name for node in proto.graph.node for name in node.input}
    idle = [name for name in stage.inputs if name not in read]
    if idle:
        raise RuntimeError(f"stage {stage.name} does not read its inputs {idle}; stages.stages must leave them out")
