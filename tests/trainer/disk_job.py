"""Run by test_disk_full.py in a folder on a small file system: what becomes of checkpoints that do not fit."""

from __future__ import annotations

import os
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from foldline.cluster.ranks import discover
from foldline.data_store.config import DataConfig
from foldline.errors import FoldlineError
from foldline.trainer.checkpoint import damage, file_hash, folder_of, read_manifest
from foldline.trainer.checkpoint_writer import Policy
from foldline.trainer.checkpoints import Checkpoints
from foldline.trainer.config import OptimConfig, RunConfig, RunSection
from foldline.trainer.ema import Ema
from foldline.trainer.engine import initialize, start_process_group, stop_process_group
from foldline.trainer.partitions import master_partitions
from foldline.trainer.rundir import RunDir

Usage = namedtuple("Usage", "total used free")


class Wide(nn.Module):
    """A checkpoint of 24 bytes per parameter: 4.3 MB."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(400, 450)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).square().mean()


def whole(run: RunDir, step: int) -> bool:
    folder = folder_of(run.checkpoints, step)
    manifest = read_manifest(folder)
    return not damage(manifest, {name: file_hash(folder / name) for name in manifest.files})


def leave_free(run: RunDir, size: int) -> None:
    """Fill the file system until ``size`` bytes are free."""
    filler = run.root / "filler"
    filler.unlink(missing_ok=True)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(run.root).free - size)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    config = RunConfig(DataConfig(store="s"), RunSection("r", 9, threads=1, device="cpu"), optim=OptimConfig(clip="none"))
    start_process_group(config, discover())
    engine = initialize(Wide(), config, 1)
    ema = Ema(master_partitions(engine, 2), 0.9)
    run = RunDir(folder)
    run.config.write_text("{}")
    checkpoints = Checkpoints(run, 2, "store", Policy(1))

    def save(step: int) -> list[str]:
        engine.backward(engine(torch.ones(2, 400)))
        engine.step()
        checkpoints.save(engine, ema, step, step, "")
        checkpoints.settle()
        return checkpoints.news()

    assert save(1) == [f"checkpoint of step 1: {folder_of(run.checkpoints, 1)}"]
    leave_free(run, 2_000_000)
    (said,) = save(2)
    assert "step 2 was not written: no room" in said
    assert "are free" in said
    assert checkpoints.steps() == [1]
    assert whole(run, 1)
    with pytest.raises(FoldlineError, match="step 2 was not written"):
        checkpoints.finish()  # a run must not end well without its last checkpoint
    (run.root / "filler").unlink()
    assert "checkpoint of step 3" in save(3)[0]
    assert checkpoints.steps() == [3]
    checkpoints.finish()

    leave_free(run, 2_000_000)
    shutil.disk_usage = lambda path: Usage(0, 0, 1 << 40)  # another job takes the room just after it was looked at
    (said,) = save(4)
    assert "step 4 was not written: rank 0: cannot write weights" in said
    assert "No space left" in said
    assert not list(run.checkpoints.glob(".partial*"))
    assert whole(run, 3)
    with pytest.raises(FoldlineError, match=r"step 5 was not written.*2 in a row; the checkpoint of step 3 is whole; make room"):
        save(5)
    assert checkpoints.steps() == [3]
    assert whole(run, 3)
    stop_process_group()
    print("all seen")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
