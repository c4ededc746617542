"""Run by test_elastic.py under mpirun: ``save`` trains a small network at every ZeRO stage, ``load`` goes on from each at each, ``some``
from each at two others.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foldline.cluster.ranks import discover
from foldline.data_store.config import DataConfig
from foldline.model.weights import load_weights
from foldline.trainer.checkpoint import MODEL
from foldline.trainer.checkpoint_writer import Policy
from foldline.trainer.checkpoints import Checkpoints
from foldline.trainer.config import OptimConfig, RunConfig, RunSection
from foldline.trainer.ema import Ema
from foldline.trainer.engine import initialize, start_process_group, stop_process_group
from foldline.trainer.optimizer import set_learning_rate
from foldline.trainer.partitions import gather, master_partitions
from foldline.trainer.rundir import RunDir

SAMPLES = 12  # of a step: for 1, 2, 3 and 4 ranks
SAVED, END = 4, 7  # steps
STAGES = (0, 1, 2, 3)


class Small(nn.Module):
    """Odd sizes, so that slices begin and end within parameters, and ranks own none of some; ``model`` as in the training step."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(7, 13), nn.LayerNorm(13), nn.ReLU(), nn.Linear(13, 3, bias=False))
        self.model.register_parameter("scale", nn.Parameter(torch.tensor([2.0])))

    def forward(self, x: Tensor) -> Tensor:
        return (self.model(x) * self.model.scale).square().mean()


def advance(engine: object, ema: Ema, steps: range) -> None:
    """Steps whose samples are shared out to however many ranks there are."""
    world, rank = dist.get_world_size(), dist.get_rank()
    for step in steps:
        batch = torch.randn(SAMPLES, 7, generator=torch.Generator().manual_seed(step))
        set_learning_rate(engine.optimizer, 0.01 * (step + 1))
        engine.backward(engine(batch.view(world, -1, 7)[rank]))
        engine.step()
        ema.update()


def state(engine: object, ema: Ema, stage: int) -> dict[str, Tensor]:
    """Everything that decides how training goes on, as whole tensors: weights, average, Adam's moments and count."""
    masters = master_partitions(engine, stage)
    moments = [engine.basic_optimizer.state[master] for master in masters]
    parts = {"weight": masters, "ema": ema.averages, **{kind: [m[kind] for m in moments] for kind in ("exp_avg", "exp_avg_sq")}}
    whole = {f"{kind}:{name}": value for kind, part in parts.items() for name, value in gather(engine, stage, part).items()}
    forward = {f"module:{name}": value for name, value in gather(engine, stage, masters).items()}
    return whole | forward | {"step": moments[0]["step"].clone()}


def make(module: Small, config: RunConfig, stage: int) -> tuple[object, Ema]:
    settings = replace(config, deepspeed=replace(config.deepspeed, zero_stage=stage))
    engine = initialize(module, settings, dist.get_world_size())
    return engine, Ema(master_partitions(engine, stage), config.optim.ema_decay)


def save(config: RunConfig, folder: Path, stage: int) -> None:
    torch.manual_seed(0)
    engine, ema = make(Small(), config, stage)
    run = RunDir(folder / f"stage{stage}")
    run.root.mkdir(parents=True, exist_ok=True)
    run.config.write_text("{}")
    advance(engine, ema, range(SAVED))
    with Checkpoints(run, stage, "store", Policy(2)) as checkpoints:
        checkpoints.save(engine, ema, SAVED, SAVED * SAMPLES, "")
        now = state(engine, ema, stage)
        advance(engine, ema, range(SAVED, END))  # while the checkpoint is being written
        checkpoints.finish()
    later = state(engine, ema, stage)
    if dist.get_rank() == 0:
        save_file({k: v.contiguous() for k, v in now.items()}, run.root / "now.safetensors")
        save_file({k: v.contiguous() for k, v in later.items()}, run.root / "later.safetensors")


def load(config: RunConfig, folder: Path, written: int, stage: int) -> None:
    run = RunDir(folder / f"stage{written}")
    torch.manual_seed(99)
    checkpoints = Checkpoints(run, stage, "store", Policy(2))
    found = checkpoints.newest(lambda _: None)
    assert (found.manifest.samples, found.manifest.batch, found.manifest.zero_stage) == (SAVED * SAMPLES, SAMPLES, written)
    module = Small()
    load_weights(found.path / MODEL, module.model)
    engine, ema = make(module, config, stage)
    checkpoints.restore(engine, ema, found)
    wanted, got = load_file(run.root / "now.safetensors"), state(engine, ema, stage)
    assert wanted.keys() == got.keys()
    assert [key for key in wanted if not wanted[key].equal(got[key])] == [], (written, stage)
    advance(engine, ema, range(SAVED, END))
    wanted, got = load_file(run.root / "later.safetensors"), state(engine, ema, stage)
    exact = written == stage and found.manifest.world == dist.get_world_size()
    rtol, atol = (0, 0) if exact else (1e-5, 1e-6)
    for key in wanted:
        torch.testing.assert_close(got[key], wanted[key], rtol=rtol, atol=atol, msg=f"{written} {stage} {key}")


def main(what: str, folder: Path) -> None:
    ranks = discover()
    section = RunSection(dir="none", steps=END, threads=1, device="cpu")
    config = RunConfig(DataConfig(store="none"), section, optim=OptimConfig(clip="none", ema_decay=0.9))
    start_process_group(config, ranks)
    for written in STAGES:
        if what == "save":
            save(config, folder, written)
        else:
            for stage in STAGES if what == "load" else ((written + 1) % 4, (written + 2) % 4):
                load(config, folder, written, stage)
    dist.barrier()
    print(f"rank {ranks.rank} of {ranks.world}: {what} done", flush=True)
    stop_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
