"""Ranks of a real job take their places: CPUs divided or left, threads to match, the interface chosen, all of it known to all."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from foldline.cluster.binding import allowed_cpus, machine
from foldline.cluster.interfaces import interface_of
from foldline.cluster.launch import mpirun_command

JOB = """
import dataclasses, json, os, sys, torch
from foldline.cluster.ranks import discover
from foldline.data_store.config import DataConfig
from foldline.trainer.config import RunConfig, RunSection
from foldline.trainer.engine import start_process_group, stop_process_group
from foldline.trainer.places import take_places
config = RunConfig(DataConfig(store="s"), RunSection(dir="r", steps=1, device="cpu", bind=sys.argv[1] == "bind"))
ranks = discover()
places = take_places(ranks, config, start_process_group(config, ranks))
mine = {"rank": ranks.rank, "places": [dataclasses.asdict(place) for place in places], "lines": [place.describe() for place in places]}
mine |= {"cpus": sorted(os.sched_getaffinity(0)), "threads": torch.get_num_threads(), "interface": os.environ["GLOO_SOCKET_IFNAME"]}
stop_process_group()
mine["left"] = [name for name in ("RANK", "MASTER_ADDR", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if name in os.environ]
os.write(1, (json.dumps(mine) + "\\n").encode())
"""


def ranks(mode: str, **more: str) -> list[dict]:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_SOCKET_IFNAME")} | more
    command = mpirun_command(2, [sys.executable, "-c", JOB, mode])
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return sorted((json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")), key=lambda mine: mine["rank"])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU cannot be divided")
def test_bound_ranks_divide_the_cpus_and_everybody_knows() -> None:
    first, second = ranks("bind")
    assert first["cpus"]
    assert not set(first["cpus"]) & set(second["cpus"])
    assert set(first["cpus"]) | set(second["cpus"]) <= set(allowed_cpus())
    assert [first["threads"], second["threads"]] == [len(first["cpus"]), len(second["cpus"])]
    assert first["places"] == second["places"]
    for mine in (first, second):
        place = mine["places"][mine["rank"]]
        assert place["cpus"] == mine["cpus"]
        assert tuple(place["numa"]) == machine().nodes_of(mine["cpus"])
        assert f"on cpu, NUMA {place['numa'][0]}, CPUs {mine['cpus'][0]}" in mine["lines"][mine["rank"]]
        assert mine["interface"] == interface_of("127.0.0.1")
        assert mine["left"] == []


def test_unbound_ranks_keep_what_they_had() -> None:
    for mine in ranks("leave", NCCL_SOCKET_IFNAME="ib9"):
        assert tuple(mine["cpus"]) == allowed_cpus()
        assert mine["threads"] == max(1, len(allowed_cpus()) // 2)
        assert "NCCL_SOCKET_IFNAME=ib9 (set by you)" in mine["lines"][0]
        assert mine["left"] == ["NCCL_SOCKET_IFNAME"]
