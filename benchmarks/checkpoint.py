"""How long a checkpoint holds the training: written at once against written beside it, in the same process, on the same state.

    python benchmarks/checkpoint.py [--parameters 93] [--folder DIR] [--rounds 5]

One rank, ZeRO 2. Between two checkpoints matrices are multiplied for longer than a checkpoint takes, in pieces whose time is also taken.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from foldline.cluster.ranks import discover
from foldline.data_store.config import DataConfig
from foldline.trainer.checkpoint_writer import Policy
from foldline.trainer.checkpoints import Checkpoints
from foldline.trainer.config import OptimConfig, RunConfig, RunSection
from foldline.trainer.ema import Ema
from foldline.trainer.engine import initialize, start_process_group, stop_process_group
from foldline.trainer.partitions import master_partitions
from foldline.trainer.rundir import RunDir


class Layers(nn.Module):
    """``millions`` of parameters in layers of a quarter of a million."""

    def __init__(self, millions: float) -> None:
        super().__init__()
        self.model = nn.Sequential(*(nn.Linear(512, 512, bias=False) for _ in range(round(millions * 1e6 / 512**2))))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).square().mean()


def compute(seconds: float, device: torch.device) -> list[float]:
    """Multiply matrices for ``seconds``; the time of each piece."""
    matrix, pieces = torch.randn(1024, 1024, device=device), []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        (matrix @ matrix).sum().item()
        pieces.append(time.perf_counter() - start)
    return pieces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=float, default=93.0, help="millions")
    parser.add_argument("--folder", type=Path, default=None, help="on the file system to measure")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    config = RunConfig(DataConfig(store="s"), RunSection("r", 9), optim=OptimConfig(clip="none"))
    device = start_process_group(config, discover())
    engine = initialize(Layers(args.parameters).to(device), config, 1)
    ema = Ema(master_partitions(engine, 2), 0.999)
    engine.backward(engine(torch.ones(2, 512, device=device)))
    engine.step()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        run = RunDir(Path(folder))
        run.config.write_text("{}")
        held: dict[bool, list[float]] = {False: [], True: []}
        alone: list[float] = []
        beside: list[float] = []
        step = 0
        for asynchronous in (False, True):
            with Checkpoints(run, 2, "store", Policy(1), asynchronous=asynchronous) as checkpoints:
                for _ in range(args.rounds):
                    step += 1
                    start = time.perf_counter()
                    checkpoints.save(engine, ema, step, step, "")
                    held[asynchronous].append(time.perf_counter() - start)
                    if asynchronous:
                        while not checkpoints.news():
                            beside += compute(0.2, device)
                        alone += compute(1.0, device)
                checkpoints.finish()
    stop_process_group()
    sync, beside_it = (statistics.median(held[key]) for key in (False, True))
    print(f"{device.type}, {args.parameters:g} million parameters, 24 bytes each, median of {args.rounds}")
    print(f"held, written at once:    {sync:8.3f} s")
    print(f"held, written beside:     {beside_it:8.3f} s   {sync / beside_it:.0f} times less")
    print(f"compute meanwhile:        {statistics.mean(beside) / statistics.mean(alone):8.2f} times its time without a checkpoint")


if __name__ == "__main__":
    main()
