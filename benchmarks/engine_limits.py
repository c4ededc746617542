"""What bf16 and fp16 change in PyTorch itself, by the gate's own checks: what the limits of engines in these precisions rest on.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/engine_limits.py [--run runs/demo] [--recycles 1] [--bins 128,256,384,512] [--device cpu]

The proteins are those that come with Foldline. Without ``--run`` the network is the ``tiny`` preset with random weights.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch

from foldline.data_store.config import FeatureConfig
from foldline.export.config import GateConfig
from foldline.export.gate import GateReport, run_gate
from foldline.export.gate_proteins import select_proteins
from foldline.export.runners import TorchRunner
from foldline.export.stages import find_policy
from foldline.model.alphafold import AlphaFold
from foldline.model.config import ModelConfig, tiny
from foldline.model.precision import apply_precision
from foldline.model.weights import load_weights
from foldline.settings import from_dict
from foldline.tests.model.samples import network


def load(run: Path | None) -> tuple[AlphaFold, FeatureConfig]:
    """The network in float32, and the features it is fed with."""
    if run is None:
        return network(tiny(), dtype=torch.float32), FeatureConfig()
    saved = json.loads((run / "config.json").read_text())
    model = AlphaFold(from_dict(ModelConfig, saved["model"], str(run)))
    load_weights(run / "weights" / "ema.safetensors", model)
    return model, from_dict(FeatureConfig, saved["features"], str(run))


def reduced(model: AlphaFold, precision: str) -> AlphaFold:
    """The same weights under the policy of an engine's precision."""
    twin = copy.deepcopy(model)
    apply_precision(twin, find_policy(precision))
    return twin


def main() -> None:
    """Print the table: the worst value of each check by precision, and its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--recycles", type=int, default=1)
    parser.add_argument("--bins", default="128,256,384,512")
    parser.add_argument("--precisions", default="bf16,fp16")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    bins = tuple(int(text) for text in args.bins.split(","))
    config = GateConfig(bins=bins, covered_bins=len(bins), deep_rows=0, recycles=args.recycles)
    model, features = load(args.run)
    selection = select_proteins(None, (), config, None)
    reports: dict[str, GateReport] = {}
    for precision in args.precisions.split(","):
        engine = TorchRunner(reduced(model, precision), args.device)
        reports[precision] = run_gate(TorchRunner(model, args.device), engine, selection, features, config, precision)
    print(f"{', '.join(f'{p.name} ({p.residues} residues, {p.rows} rows)' for p in selection.proteins)}; {args.recycles + 1} passes\n")
    print("| check | " + " | ".join(f"{p}, worst | on | limit" for p in reports) + " |")
    print("| --- " * (1 + 3 * len(reports)) + "|")
    for name in next(iter(reports.values())).worst:
        cells = [
            f"{worst.value:.2g}{worst.unit} | {worst.protein} | {worst.limit:g}"
            for worst in (report.worst[name] for report in reports.values())
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
