"""What each precision policy changes in the fold of real proteins, against float32 with the same weights.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/precision.py [--run runs/demo] [--recycles 3] [--device cpu]

Without ``--run`` the network is the ``tiny`` preset with random weights; with it the averaged weights of a training run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from foldline.data_store.config import FeatureConfig
from foldline.model.alphafold import AlphaFold, run_cycles
from foldline.model.config import tiny
from foldline.model.precision import POLICIES, apply_precision
from foldline.model.weights import load_weights
from foldline.settings import from_dict
from foldline.tests.model.precision_cases import Errors, demo_store, errors, passes
from foldline.tests.model.samples import network
from foldline.trainer.config import RunConfig
from foldline.trainer.step import to_device


def load(run: Path | None) -> tuple[AlphaFold, FeatureConfig]:
    """The network in float32, and the features it is fed with."""
    if run is None:
        return network(tiny(), dtype=torch.float32), FeatureConfig()
    config = from_dict(RunConfig, json.loads((run / "config.json").read_text()), str(run / "config.json"))
    model = AlphaFold(config.model).eval()
    load_weights(run / "weights" / "ema.safetensors", model)
    return model, config.features


@torch.no_grad()
def main() -> None:
    """Print the table: a row per policy and protein, then means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--recycles", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    print("| policy | chain | residues | pLDDT | distogram | Cα, Å | 1 - lDDT-Cα | worst pLDDT | worst probability |")
    print("| --- " * 9 + "|")
    with tempfile.TemporaryDirectory() as folder:
        store = demo_store(Path(folder))
        exact = {}
        for policy in POLICIES.values():
            model, features = load(args.run)
            model.to(device)
            apply_precision(model, policy)
            rows = []
            for chain in store.chain_ids:
                out = run_cycles(model, to_device(passes(store, chain, features, args.recycles + 1), device))
                out = to_device(out, torch.device("cpu"))
                rows.append(errors(out, exact.setdefault(chain, out)))
                print(f"| {policy.name} | {chain} | {len(out.s)} | " + " | ".join(f"{value:.2g}" for value in rows[-1]) + " |")
            means = (sum(column) / len(rows) for column in zip(*rows, strict=True))
            print(f"| {policy.name} | mean | | " + " | ".join(f"{value:.2g}" for value in Errors(*means)) + " |")


if __name__ == "__main__":
    main()
