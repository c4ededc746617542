"""What test_export_ready runs in a process of its own: python -m foldline.tests.model.compiling export | compile."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import torch

from foldline.data_store.types import FeatureBatch, schema_of
from foldline.model.alphafold import AlphaFold
from foldline.model.config import tiny
from foldline.model.outputs import ModelOutput, Recycled
from foldline.tests.model.samples import features, network

OPEN = ("N_res", "N_clust", "N_extra")
SIZES: tuple[dict[str, int], ...] = ({}, {"n_res": 11, "n_clust": 3, "n_extra": 2}, {"n_res": 3, "n_clust": 2, "n_extra": 9})


def short_network() -> AlphaFold:
    config = tiny()
    short = replace(config, evoformer=replace(config.evoformer, blocks=1), structure=replace(config.structure, iterations=2))
    return network(short, dtype=torch.float32)


def assert_close(ours: ModelOutput, expected: ModelOutput) -> None:
    for name in ("m", "z", "s", "distogram", "masked_msa", "plddt", "pae"):
        torch.testing.assert_close(getattr(ours, name), getattr(expected, name), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.structure.positions, expected.structure.positions, rtol=0, atol=1e-3)
    torch.testing.assert_close(ours.recycled.x, expected.recycled.x, rtol=0, atol=1e-3)


def inputs(model: AlphaFold, seed: int, **sizes: int) -> tuple[FeatureBatch, Recycled]:
    batch = features(seed=seed, dtype=torch.float32, **sizes)
    g = torch.Generator().manual_seed(seed)
    return batch, Recycled(*(5 * torch.randn(zeros.shape, generator=g) for zeros in model.initial_recycled(batch)))


def export(model: AlphaFold) -> None:
    def open_axes(name: str) -> dict[int, object]:
        # AUTO and not a named Dim with a range: of some guards that always hold, the solver cannot tell so
        return {axis: torch.export.Dim.AUTO for axis, dim in enumerate(schema_of(FeatureBatch)[name].dims) if dim in OPEN}

    both = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    batch_axes = FeatureBatch(**{name: open_axes(name) for name in FeatureBatch._fields})
    axes = (batch_axes, Recycled({0: torch.export.Dim.AUTO}, both, {0: torch.export.Dim.AUTO}))
    with torch.no_grad():
        program = torch.export.export(model, inputs(model, 0), dynamic_shapes=axes, strict=False)
        graph = program.module(check_guards=False)  # torch's guard printer trips over names that begin alike
        for sizes in SIZES:
            arguments = inputs(model, 1, **sizes)
            assert_close(graph(*arguments), model(*arguments))


def compile_whole(model: AlphaFold) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, example: list[torch.Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=backend, dynamic=True)
    with torch.no_grad():
        for sizes in SIZES:
            arguments = inputs(model, 2, **sizes)
            assert_close(compiled(*arguments), model(*arguments))
    assert len(graphs) == 1, f"{len(graphs)} graphs: a size was taken for a constant"


if __name__ == "__main__":
    {"export": export, "compile": compile_whole}[sys.argv[1]](short_network())
