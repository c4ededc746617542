"""What the graphs of a full-size network cost to make: blocks stitched from one trace, against a trace of the whole pass.

    OMP_NUM_THREADS=1 python benchmarks/export.py [--preset model_1_ptm] [--precisions fp32 bf16 fp16] [--no-whole]

Each way is a process of its own, so that its peak of memory is its own. ONNX Runtime then runs the stitched graphs on the CPU, in float32
and float16, and compared with PyTorch in float32; the weights are random, and none of them is zero.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch

from foldline.data_store.types import FieldSchema
from foldline.export.graph import FoldPass, input_schema, output_schema
from foldline.export.graphs import OPSET, write_graphs
from foldline.export.tracing import TRACE_SIZES
from foldline.model.alphafold import AlphaFold
from foldline.model.config import ModelConfig
from foldline.model.weights import count_parameters
from foldline.tests.export.cases import model_of
from foldline.tests.export.stage_chain import chain, onnxruntime_stages, torch_stages

MIB = 1 << 20


def stitched(model: AlphaFold, folder: Path, precision: str) -> None:
    """The way of ``foldline export``."""
    write_graphs(model, folder, precision)


def whole(model: AlphaFold, folder: Path, precision: str) -> None:
    """The pass as one graph, every block traced."""
    fold_pass, inputs, outputs = FoldPass(model), input_schema(model.config), output_schema(model.config)
    axes = {name: {i: d for i, d in enumerate(schema.dims) if isinstance(d, str)} for name, schema in (inputs | outputs).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            fold_pass.eval(),
            tuple(example(schema) for schema in inputs.values()),
            str(folder / "whole.onnx"),
            dynamo=False,
            opset_version=OPSET,
            do_constant_folding=False,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
        )


def example(schema: FieldSchema) -> torch.Tensor:
    """Ones of the sizes that pieces are traced at."""
    shape = [d if isinstance(d, int) else TRACE_SIZES[d] for d in schema.dims]
    return torch.ones(shape, dtype=torch.int64 if schema.kind == "int" else torch.float32)


def measure(way: Callable[[AlphaFold, Path, str], None], preset: str, precision: str, folder: str) -> dict[str, float]:
    """Run in a fresh process: seconds of this way alone, peak memory of the process with and without what torch and the weights take."""
    model = model_of(ModelConfig.PRESETS[preset]())
    before, cpu, wall = peak(), time.process_time(), time.perf_counter()
    way(model, Path(folder), precision)
    files = list(Path(folder).iterdir())
    return {
        "parameters": count_parameters(model),
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "before_mib": before,
        "peak_mib": peak(),
        "files_mib": sum(file.stat().st_size for file in files) / MIB,
        "nodes": sum(len(onnx.load(file, load_external_data=False).graph.node) for file in files if file.suffix == ".onnx"),
    }


def peak() -> float:
    """The largest resident size of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def random_feeds(config: ModelConfig, residues: int) -> dict[str, np.ndarray]:
    """Features of the right kinds: types and masks are 0 or 1, all else normal."""
    generator = np.random.default_rng(0)
    sizes = {"N_res": residues, "N_clust": 8, "N_extra": 12, "N_templ": 2}
    feeds = {}
    for name, (kind, dims) in input_schema(config).items():
        shape = [d if isinstance(d, int) else sizes[d] for d in dims]
        values = generator.normal(size=shape).astype(np.float32)
        feeds[name] = np.ones_like(values) if name.endswith("mask") else values
        if kind == "int":
            feeds[name] = generator.integers(0, 20, shape)
    feeds["residue_index"] = np.arange(residues)
    return feeds


def compare(preset: str, precision: str, folder: str, residues: int) -> dict[str, float]:
    """Largest difference between ONNX Runtime on the graphs and PyTorch in float32, by output; a fresh process."""
    model = model_of(ModelConfig.PRESETS[preset]())
    feeds = random_feeds(model.config, residues)
    ours = chain(model.config, feeds, torch_stages(model))
    theirs = chain(model.config, feeds, onnxruntime_stages(Path(folder)))
    return {name: float(np.abs(theirs[name] - ours[name]).max()) for name in output_schema(model.config)} | {"peak_mib": peak()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="model_1_ptm", choices=list(ModelConfig.PRESETS))
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16", "fp16"])
    parser.add_argument("--residues", type=int, default=16, help="of the comparison with PyTorch")
    parser.add_argument("--no-whole", action="store_true", help="leave the trace of the whole pass out")
    parser.add_argument("--folder", type=Path, help="where graphs are made, and left")
    args = parser.parse_args()
    ways = [("stitched", stitched, precision) for precision in args.precisions]
    ways += [] if args.no_whole else [("whole trace", whole, "fp32")]
    fresh = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        root = args.folder or Path(scratch)
        print(
            "| way | precision | CPU, s | wall, s | peak memory, MiB | of it torch and weights | files, MiB | nodes |\n"
            + "| --- " * 8
            + "|"
        )
        for name, way, precision in ways:
            folder = root / f"{args.preset}-{precision}-{way.__name__}"
            folder.mkdir(parents=True)
            with fresh.Pool(1) as pool:
                m = pool.apply(measure, (way, args.preset, precision, str(folder)))
            sizes = f"{m['peak_mib']:.0f} | {m['before_mib']:.0f} | {m['files_mib']:.1f} | {m['nodes']}"
            print(f"| {name} | {precision} | {m['cpu_s']:.1f} | {m['wall_s']:.1f} | {sizes} |", flush=True)
        for precision in args.precisions:
            if precision != "bf16":  # ONNX Runtime's CPU provider has no bfloat16 products
                with fresh.Pool(1) as pool:
                    found = pool.apply(compare, (args.preset, precision, str(root / f"{args.preset}-{precision}-stitched"), args.residues))
                print(
                    f"ONNX Runtime, {precision}, N_res {args.residues}, from PyTorch fp32:",
                    json.dumps({k: float(f"{v:.2g}") for k, v in found.items()}),
                )


if __name__ == "__main__":
    main()
