"""Stragglers: who all ranks wait for is named, once, with what it spends its time on; what is no straggler is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from foldline.cluster.launch import mpirun_command
from foldline.cluster.ranks import RankInfo
from foldline.trainer.journal import read_journal
from foldline.trainer.straggler import AGAIN, Own, Stragglers, everybody, slots

from .runs import write_config

PLACES = [RankInfo(rank, rank % 2, 4, 2, rank // 2, f"node{rank // 2}", "127.0.0.1", 1, "single") for rank in range(4)]


def follow(paces: list[list[Own]], first: int = 1) -> tuple[list[dict[str, float]], list[str]]:
    stragglers = Stragglers(PLACES)
    metrics, news = [], []
    for step, each in enumerate(paces, first):
        metrics.append(stragglers.seen(step, each))
        news += stragglers.news()
    return metrics, news


def test_the_slots_of_all_ranks_add_up_to_everybody() -> None:
    mine = [Own(0.25 * rank, 1.0 + rank) for rank in range(3)]
    summed = [sum(values) for values in zip(*(slots(own, rank, 3) for rank, own in enumerate(mine)), strict=True)]
    assert everybody(summed) == mine


def test_the_slow_rank_is_named_once_with_its_host_and_what_it_spends() -> None:
    slow = [[Own(0.01, 0.2), Own(0.01, 0.21), Own(0.5, 0.2), Own(0.01, 0.19)]] * 40
    metrics, news = follow(slow)
    assert len(news) == 1
    assert "rank 2 on node1: 0.700 s of its own per step" in news[0]
    assert "the others is 0.210 s (0.500 s for data, 0.200 s in the forward pass; others 0.010 s and 0.200 s)" in news[0]
    assert metrics[-1]["straggler/rank"] == 2.0
    assert metrics[-1]["straggler/slowdown"] == pytest.approx(0.7 / 0.21)


def test_it_is_named_again_after_long_or_when_it_had_recovered() -> None:
    slow, even = [Own(0, 1.0), Own(0, 1.0), Own(0, 3.0), Own(0, 1.0)], [Own(0, 1.0)] * 4
    assert len(follow([slow] * (AGAIN + 20))[1]) == 2
    assert len(follow([slow] * 20 + [even] * 20 + [slow] * 20)[1]) == 2


@pytest.mark.parametrize(
    "paces",
    [
        [[Own(0.0, 1.0), Own(0.0, 1.02), Own(0.0, 0.98), Own(0.0, 1.1)]] * 40,  # alike
        [[Own(0.0, 1.0 + 9.0 * (step % 4 == rank and step % 3 == 0)) for rank in range(4)] for step in range(40)],  # each one now and then
        [[Own(0.0, 0.001), Own(0.0, 0.001), Own(0.0, 0.004), Own(0.0, 0.001)]] * 40,  # four times as long, yet nothing
    ],
)
def test_nobody_is_named_where_nobody_is_waited_for(paces: list[list[Own]]) -> None:
    assert follow(paces)[1] == []


def test_a_single_rank_and_the_first_step_have_no_figures() -> None:
    assert Stragglers(PLACES[:1]).seen(1, [Own(1.0, 1.0)]) == {}
    assert Stragglers(PLACES).seen(1, [Own(0.0, 0.0)] * 4) == {}


SLOW_RANK = """
import os, sys, time
from foldline.trainer import loop
if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    plain = loop.open_loader
    class Slow:
        def __init__(self, loader): self.loader, self.order = loader, loader.order
        def __enter__(self): self.loader.__enter__(); return self
        def __exit__(self, *told): return self.loader.__exit__(*told)
        def __iter__(self): return self
        def __next__(self):
            time.sleep(0.4)
            return next(self.loader)
    loop.open_loader = lambda *given: Slow(plain(*given))
from foldline.cli import main
sys.exit(main(["train", *sys.argv[1:]]))
"""


def test_a_rank_that_waits_for_its_data_is_named_in_a_run(store: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, store)
    program = [sys.executable, "-c", SLOW_RANK, "--config", str(config), "--set=run.steps=12", "--set=run.checkpoint_every=100"]
    done = subprocess.run(mpirun_command(2, program), capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (said,) = [line for line in done.stdout.splitlines() if "all ranks wait for" in line]
    assert "all ranks wait for rank 1 on " in said
    last = [r for r in read_journal(tmp_path / "run" / "metrics.jsonl") if r.kind == "train"][-1].metrics
    assert last["straggler/rank"] == 1.0
    assert last["straggler/slowdown"] > 1.5
