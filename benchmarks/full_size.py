"""A full-size network on a CPU: what a pass costs by each runner, what building one costs, and how far its numbers are from PyTorch's.

    OMP_NUM_THREADS=1 python benchmarks/full_size.py [--preset model_1_ptm] [--residues 122] [--rows 124 1024]
        [--runners bf16 onnxruntime aotinductor torch-compile]

One pass over the first residues of a protein that comes with Foldline, with the rows that its alignment has, up to ``--rows``. Weights are
random, with none of the zeros that residual branches start with. Seconds are the processor's, of this process and its children. What a pass
costs at the lengths of the gate's proteins lies between its square and its cube: pairs have N_res^2 elements, triangles N_res^3.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from foldline.data_store.config import FeatureConfig
from foldline.data_store.featurize import inference_cycles
from foldline.export.config import GateConfig
from foldline.export.gate_checks import accuracy, fold, pass_accuracy
from foldline.export.gate_proteins import select_proteins
from foldline.export.graphs import write_graphs
from foldline.export.runners import Runner, TorchRunner
from foldline.export.runners_aoti import AOTInductorRunner, compile_package, size_limits
from foldline.export.runners_onnx import OnnxRuntimeRunner
from foldline.model.alphafold import AlphaFold
from foldline.model.config import ModelConfig
from foldline.tests.export.gate_cases import cropped
from foldline.tests.model.samples import network

T = TypeVar("T")
RUNNERS = ("bf16", "fp16", "onnxruntime", "aotinductor", "torch-compile")
LENGTHS = (122, 190, 285, 390)  # of the proteins that come with Foldline
GATE_PASSES = {"PyTorch": 3, "the engine": 5}  # of one protein, by default: both passes and one repeated; both twice, and one padded


def seconds() -> float:
    """Of the processor, with children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def peak() -> float:
    """The highest resident set of this process so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def made(name: str, model: AlphaFold, features: FeatureConfig, folder: Path) -> Runner:
    """The runner of that name; what is built for it lies in ``folder``."""
    if name in ("bf16", "fp16"):
        return TorchRunner(model, precision=name)
    if name == "torch-compile":
        return TorchRunner(model, compiled=True)
    if name == "onnxruntime":
        write_graphs(model, folder, "fp32")
        return OnnxRuntimeRunner(folder, model.config, "cpu", 1)
    compile_package(model, folder, "cpu", lambda text: print(f"  {text}, {seconds():.0f} CPU-s so far", flush=True))
    return AOTInductorRunner(folder, model, "cpu", size_limits(model.config, features))


def timed(work: Callable[..., T], *arguments: object) -> tuple[T, float]:
    """What ``work`` returns, and its seconds."""
    before = seconds()
    return work(*arguments), seconds() - before


def main() -> None:
    """Print a line per runner and how far it is from PyTorch in float32."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="model_1_ptm", choices=sorted(ModelConfig.PRESETS))
    parser.add_argument("--residues", type=int, default=122)
    parser.add_argument("--rows", type=int, nargs=2, default=(124, 1024), help="clusters and extra rows")
    parser.add_argument("--runners", nargs="*", default=["bf16", "onnxruntime"], choices=RUNNERS)
    arguments = parser.parse_args()
    config = ModelConfig.PRESETS[arguments.preset]()
    features = FeatureConfig(max_msa_clusters=arguments.rows[0], max_extra_msa=arguments.rows[1])
    (protein,) = select_proteins(None, (), GateConfig(bins=(128,), covered_bins=1), None).proteins
    record = cropped(protein.record, min(arguments.residues, protein.residues))
    cycles = inference_cycles(record, features, 0, 1)
    model = network(config, dtype=torch.float32)
    reference = TorchRunner(model)
    known, spent = timed(fold, reference, cycles)
    sizes = {"N_res": len(record.sequence), "N_clust": len(cycles[0].msa_mask), "N_extra": len(cycles[0].extra_msa_mask), "N_templ": 1}
    print(f"{protein.name}, {sizes}: PyTorch fp32 {spent:.0f} CPU-s a pass, peak {peak():.1f} GB", flush=True)
    logits = {name: torch.from_numpy(known.last[name]) for name in ("distogram", "pae") if name in known.last}
    likeliest = {name: values.softmax(-1).amax(-1).mean() for name, values in logits.items()}
    told = "".join(f", the likeliest bin of {name} has {value:.4f} on average" for name, value in likeliest.items())
    print(f"pair representation: standard deviation {known.last['next_z'].std():.1f}{told}", flush=True)
    for name in arguments.runners:
        with tempfile.TemporaryDirectory(prefix="foldline-full-size-") as folder:
            runner, building = timed(made, name, model, features, Path(folder))
            size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
            first, opening = timed(fold, runner, cycles)
            again = opening if name in ("bf16", "fp16") else timed(fold, runner, cycles)[1]
            print(f"{name}: {building:.0f} CPU-s and {size / 1e6:.0f} MB to build, {opening:.0f} CPU-s the first pass, {again:.0f} a pass")
            limits = GateConfig().limits(name if name in ("bf16", "fp16") else "fp32")
            checks = [*accuracy(record, known, first, config.heads, limits)]
            checks += pass_accuracy(protein.name, cycles, known, first, reference, limits)
            print("\n".join(f"  {check}" for check in checks) + f"\n  peak of the process so far {peak():.1f} GB", flush=True)
            del runner
    low, high = (sum((length / sizes["N_res"]) ** power for length in LENGTHS) for power in (2, 3))
    if sizes["N_res"] >= LENGTHS[0]:
        print(f"a pass of each of {LENGTHS} residues, as N_res^2 to N_res^3: {low:.0f} to {high:.0f} of these; a gate makes {GATE_PASSES}")


if __name__ == "__main__":
    main()
