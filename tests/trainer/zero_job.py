"""Run by test_zero.py under mpirun: at each ZeRO stage a small network is trained and its sharded EMA compared with a plain one."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn

from foldline.cluster.ranks import discover
from foldline.data_store.config import DataConfig, FeatureConfig
from foldline.errors import FoldlineError
from foldline.model.weights import load_weights
from foldline.trainer import checkpoint_writer
from foldline.trainer.checkpoint import EMA, MODEL
from foldline.trainer.checkpoint_writer import Policy
from foldline.trainer.checkpoints import Checkpoints
from foldline.trainer.config import OptimConfig, RunConfig, RunSection
from foldline.trainer.ema import Ema
from foldline.trainer.engine import initialize, start_process_group, stop_process_group
from foldline.trainer.optimizer import adam, set_learning_rate
from foldline.trainer.partitions import gather, master_partitions
from foldline.trainer.rundir import RunDir

STEPS = 4
OPTIM = OptimConfig(clip_norm=0.5, ema_decay=0.9)


class Small(nn.Module):
    """Odd sizes, so that partitions need padding; ``model`` as in the training step."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(7, 13), nn.LayerNorm(13), nn.ReLU(), nn.Linear(13, 3, bias=False))
        self.model.register_buffer("scale", torch.tensor([2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).square().mean()


def batch(step: int, rank: int) -> Tensor:
    return torch.randn(5, 7, generator=torch.Generator().manual_seed(100 * step + rank))


def plain(world: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and EMA of the same training without DeepSpeed, the ranks' gradients averaged by hand."""
    torch.manual_seed(0)
    module = Small()
    optimizer = adam(module.parameters(), OPTIM)
    average = {name: value.detach().clone() for name, value in module.named_parameters()}
    for step in range(STEPS):
        set_learning_rate(optimizer, 0.01 * (step + 1))
        optimizer.zero_grad()
        sum(module(batch(step, rank)) / world for rank in range(world)).backward()
        nn.utils.clip_grad_norm_(module.parameters(), OPTIM.clip_norm)
        optimizer.step()
        for name, value in module.named_parameters():
            average[name] = OPTIM.ema_decay * average[name] + (1 - OPTIM.ema_decay) * value.detach()
    return {name: value.detach() for name, value in module.named_parameters()}, average


def advance(engine: object, ema: Ema, steps: range) -> None:
    for step in steps:
        set_learning_rate(engine.optimizer, 0.01 * (step + 1))
        engine.backward(engine(batch(step, dist.get_rank())))
        engine.step()
        ema.update()


def same(found: dict[str, Tensor], wanted: dict[str, Tensor], exact: bool = False) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], **({"rtol": 0, "atol": 0} if exact else {"rtol": 1e-5, "atol": 1e-6}))


def check_stage(stage: int, config: RunConfig, folder: Path) -> None:
    world = dist.get_world_size()
    torch.manual_seed(0)
    engine = initialize(Small(), config, world)
    ema = Ema(master_partitions(engine, stage), OPTIM.ema_decay)
    advance(engine, ema, range(STEPS))
    weights, average = plain(world)
    same(gather(engine, stage, master_partitions(engine, stage)), weights)
    same(gather(engine, stage, ema.averages), average)
    owned = sum(t.numel() for t in ema.averages)
    whole = sum(w.numel() for w in weights.values())
    assert owned == whole if stage == 0 else owned < 0.6 * whole, (stage, owned, whole)

    run = RunDir(folder / f"stage{stage}")
    if dist.get_rank() == 0:
        run.root.mkdir(parents=True)
        run.config.write_text("{}")
    checkpoints = Checkpoints(run, stage, "store", Policy(2, mirror=str(folder / f"mirror{stage}")))
    for step in (2, 3, 4):
        checkpoints.save(engine, ema, step, step * world, "run-id")
        assert checkpoints.steps()[-1] == step
    checkpoints.finish()
    assert checkpoints.steps() == [3, 4]
    assert [line.split(":")[0] for line in checkpoints.news()] == [f"checkpoint of step {s}" for s in (2, 3, 4) if dist.get_rank() == 0]
    path = run.checkpoints / "step_00000004"
    assert not list(run.checkpoints.glob(".partial*"))
    if stage == 2:
        check_writing_holds_no_step(engine, ema, run, world)
    exact = checkpoints.weights(engine, ema.averages)
    assert exact["scale"].item() == 2.0
    advance(engine, ema, range(STEPS, STEPS + 3))
    later, later_ema = (gather(engine, stage, p) for p in (master_partitions(engine, stage), ema.averages))
    check_resume(stage, config, checkpoints, path, later, later_ema, exact)
    check_damage(checkpoints, run, stage)


def check_writing_holds_no_step(engine: object, ema: Ema, run: RunDir, world: int) -> None:
    """``save`` returns while the disk takes its time, unless it is to wait; the state that is written is that of the moment of ``save``."""
    slow, plain = threading.Event(), checkpoint_writer.write_tensors

    def write(*given: object) -> str:
        assert slow.wait(60)
        return plain(*given)

    checkpoint_writer.write_tensors = write
    beside = RunDir(run.root / "beside")
    if dist.get_rank() == 0:
        beside.root.mkdir()
        beside.config.write_text("{}")
    checkpoints = Checkpoints(beside, 2, "store", Policy(1))
    checkpoints.save(engine, ema, 4, 4 * world, "")
    saved = checkpoints.weights(engine, ema.averages)
    before = [average.clone() for average in ema.averages]
    for average in ema.averages:
        average.add_(1.0)  # what comes after
    assert checkpoints.news() == []
    assert not list(beside.checkpoints.glob("step_*"))
    dist.barrier()
    slow.set()
    checkpoints.finish()
    same(load_file(beside.checkpoints / "step_00000004" / EMA), saved, exact=True)
    for average, value in zip(ema.averages, before, strict=True):
        average.copy_(value)
    slow.clear()
    late = threading.Timer(0.3, slow.set)
    late.start()
    Checkpoints(beside, 2, "store", Policy(1), asynchronous=False).save(engine, ema, 5, 5 * world, "")
    assert slow.is_set()
    assert (beside.checkpoints / "step_00000005" / "manifest.json").exists()
    checkpoint_writer.write_tensors = plain


def check_resume(
    stage: int,
    config: RunConfig,
    checkpoints: Checkpoints,
    path: Path,
    later: dict[str, Tensor],
    later_ema: dict[str, Tensor],
    exact: dict[str, Tensor],
) -> None:
    """A fresh engine with other weights goes on from the checkpoint bit for bit."""
    torch.manual_seed(99)
    found = checkpoints.newest(lambda _: None)
    manifest = found.manifest
    assert (found.path, manifest.step, manifest.updates, manifest.mlflow_run) == (path, 4, STEPS, "run-id")
    module = Small()
    load_weights(path / MODEL, module.model)
    engine = initialize(module, config, dist.get_world_size())
    ema = Ema(master_partitions(engine, stage), OPTIM.ema_decay)
    checkpoints.restore(engine, ema, found)
    same(checkpoints.weights(engine, ema.averages), exact, exact=True)
    advance(engine, ema, range(STEPS, STEPS + 3))
    same(gather(engine, stage, master_partitions(engine, stage)), later, exact=True)
    same(gather(engine, stage, ema.averages), later_ema, exact=True)


def check_damage(checkpoints: Checkpoints, run: RunDir, stage: int) -> None:
    """Other bytes or a lost file in the newest: told, and the one before is taken. Both damaged: an error. Other store: an error."""
    newest = run.checkpoints / "step_00000004"
    if dist.get_rank() == 0:
        data = bytearray((newest / "ema.safetensors").read_bytes())
        data[-1] ^= 1
        (newest / "ema.safetensors").unlink()  # the published weights are a hard link to it
        (newest / "ema.safetensors").write_bytes(data)
        (newest / "config.json").unlink()
    dist.barrier()
    told: list[str] = []
    path, manifest = Checkpoints(run, stage, "store", Policy(2)).newest(told.append)
    assert (path.name, manifest.step) == ("step_00000003", 3)
    assert len(told) == 1
    assert "ema.safetensors has other bytes" in told[0]
    assert "config.json is missing" in told[0]
    copied = Checkpoints(run, stage, "store", Policy(2, mirror=str(run.root.parent / f"mirror{stage}"))).newest(told.append)
    assert (copied.path.parent.name, copied.manifest.step) == (f"mirror{stage}", 4)
    assert "step_00000004 is gone or damaged; its copy in run.checkpoint_mirror is used" in told[-1]
    expect_error(Checkpoints(run, stage, "another", Policy(2)), "--resume: data.store holds other data")
    dist.barrier()
    if dist.get_rank() == 0:
        (run.checkpoints / "step_00000003" / "manifest.json").write_text('{"schema": 1, "st')
    dist.barrier()
    expect_error(Checkpoints(run, stage, "store", Policy(2)), "no checkpoint")


def expect_error(checkpoints: Checkpoints, words: str) -> None:
    with pytest.raises(FoldlineError, match=words):
        checkpoints.newest(lambda _: None)


def main(folder: Path) -> None:
    config = RunConfig(
        DataConfig(store="none"), RunSection(dir="none", steps=STEPS, threads=1, device="cpu"), optim=OPTIM, features=FeatureConfig()
    )
    ranks = discover()
    start_process_group(config, ranks)
    for stage in (0, 1, 2, 3):
        check_stage(stage, replace(config, deepspeed=replace(config.deepspeed, zero_stage=stage)), folder)
        print(f"stage {stage} of rank {ranks.rank} done", flush=True)
    stop_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
