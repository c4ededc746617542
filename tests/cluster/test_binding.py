"""A host's ranks divide its CPUs: nothing twice, nothing that the scheduler has not given, each near its GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldline.cluster.binding import Machine, Seat, allowed_cpus, check_devices, cuda_index, divide, gpu_node, machine, parse_ranges, quota
from foldline.cluster.ranks import RankInfo, ranges
from foldline.errors import FoldlineError

# Two sockets of four cores with two threads each; threads of core n are CPUs n and n + 8.
HOST = Machine(
    {0: (0, 1, 2, 3, 8, 9, 10, 11), 1: (4, 5, 6, 7, 12, 13, 14, 15)},
    {cpu: (cpu % 8, cpu % 8 + 8) for cpu in range(16)},
)
ALL = tuple(range(16))
RANK = RankInfo(3, 1, 4, 2, 1, "host", "127.0.0.1", 1, "slurm")


def test_ranks_sit_on_whole_cores_of_one_node() -> None:
    found = divide([Seat(rank, ALL) for rank in range(4)], HOST)
    assert found == [(0, 1, 8, 9), (4, 5, 12, 13), (2, 3, 10, 11), (6, 7, 14, 15)]


def test_ranks_sit_by_their_gpu() -> None:
    found = divide([Seat(0, ALL, 1), Seat(1, ALL, 1), Seat(2, ALL, 0), Seat(3, ALL, 0)], HOST)
    assert [HOST.nodes_of(cpus) for cpus in found] == [(1,), (1,), (0,), (0,)]
    assert divide([Seat(rank, ALL, 1) for rank in range(5)], HOST)[4] == HOST.nodes[0], "a node has no room for more ranks than cores"


def test_what_the_scheduler_gave_is_kept() -> None:
    half = (0, 1, 8, 9)
    assert divide([Seat(0, half), Seat(1, (4, 5))], HOST) == [half, (4, 5)]
    assert divide([Seat(0, half), Seat(1, half)], HOST) == [(0, 8), (1, 9)]
    assert divide([Seat(0, half), Seat(1, half), Seat(2, (1, 2))], HOST) == [half, half, (1, 2)], "overlapping: left alone"


def test_more_ranks_than_cores_stay_unbound() -> None:
    assert divide([Seat(rank, (0, 8)) for rank in range(2)], HOST) == [(0, 8), (0, 8)]


@given(st.sets(st.integers(0, 15), min_size=1), st.lists(st.integers(-1, 1), min_size=1, max_size=9))
def test_shares_are_disjoint_allowed_and_even(allowed: set[int], gpus: list[int]) -> None:
    seats = [Seat(rank, tuple(sorted(allowed)), gpu) for rank, gpu in enumerate(gpus)]
    found = divide(seats, HOST)
    cores = len({cpu % 8 for cpu in allowed})
    assert all(cpus and set(cpus) <= allowed for cpus in found)
    if 1 < len(seats) <= cores:
        assert sum(map(len, found)) == len(set().union(*found)), "nobody's CPU twice"
        assert len({cpu % 8 for cpus in found for cpu in cpus}) == sum(len({cpu % 8 for cpu in cpus}) for cpus in found), "whole cores"
    if len(seats) > cores:
        assert set(found) == {tuple(sorted(allowed))}


def test_the_kernels_tree_is_read(tmp_path: Path) -> None:
    for name, text in {
        "cpu/online": "0-3",
        "node/node0/cpulist": "0,2",
        "node/node1/cpulist": "1,3",
        "node/node2/cpulist": "",  # memory without CPUs
        **{f"cpu/cpu{n}/topology/thread_siblings_list": f"{n % 2},{n % 2 + 2}" for n in range(4)},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert machine(tmp_path) == Machine({0: (0, 2), 1: (1, 3)}, {0: (0, 2), 1: (1, 3), 2: (0, 2), 3: (1, 3)})
    (tmp_path / "0000:1b:00.0").mkdir()
    (tmp_path / "0000:1b:00.0/numa_node").write_text("1\n")
    assert gpu_node("0000:1B:00.0", tmp_path) == 1
    assert gpu_node("0000:1c:00.0", tmp_path) == -1


def test_this_machine() -> None:
    here = machine()
    assert set(allowed_cpus()) <= {cpu for own in here.nodes.values() for cpu in own}
    assert all(cpu in threads for cpu, threads in here.siblings.items())


def test_time_limits_of_a_container(tmp_path: Path) -> None:
    assert quota(tmp_path) == float("inf")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert quota(tmp_path) == float("inf")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert quota(tmp_path) == 1.5


def test_numbers_and_ranges() -> None:
    assert parse_ranges("0-2,5\n") == (0, 1, 2, 5)
    assert ranges((5, 0, 1, 2)) == "0-2,5"
    assert parse_ranges(ranges(ALL)) == ALL


def test_gpu_by_local_rank_or_by_the_schedulers_choice() -> None:
    assert cuda_index(RANK, 2, {}) == 1
    assert cuda_index(RANK, 1, {"CUDA_VISIBLE_DEVICES": "5"}) == 0, "each rank is shown its own"
    for visible, environment in ((1, {}), (0, {"CUDA_VISIBLE_DEVICES": ""})):
        with pytest.raises(FoldlineError, match=f"shows {visible} GPUs"):
            cuda_index(RANK, visible, environment)
    with pytest.raises(FoldlineError, match="number 1 of 4"):
        cuda_index(replace(RANK, local_world=4), 2, {})


def test_one_gpu_twice_is_an_error() -> None:
    first = replace(RANK, rank=2, device="cuda:0 NVIDIA H100 GPU-a")
    with pytest.raises(FoldlineError, match=r"ranks 2 and 3 on host both use cuda:1 NVIDIA H100 GPU-a"):
        check_devices([first, replace(RANK, device="cuda:1 NVIDIA H100 GPU-a")])
    check_devices([first, replace(RANK, device="cuda:0 NVIDIA H100 GPU-b"), replace(first, host="other", rank=0)])
    check_devices([replace(RANK, device="cpu"), replace(first, device="cpu")])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU cannot be divided")
def test_binding_holds_for_threads_and_children() -> None:
    code = (
        "import os, json, subprocess, sys, threading, time, foldline.cluster.binding as b\n"
        "threading.Thread(target=time.sleep, args=(3,), daemon=True).start()\n"
        "b.bind(b.allowed_cpus()[:1])\n"
        "threads = [sorted(os.sched_getaffinity(int(t))) for t in os.listdir('/proc/self/task')]\n"
        "child = subprocess.run([sys.executable, '-c', 'import os; print(len(os.sched_getaffinity(0)))'], capture_output=True, text=True)\n"
        "print(json.dumps([threads, int(child.stdout)]))"
    )
    threads, child = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert len(threads) == 2
    assert set(map(tuple, threads)) == {allowed_cpus()[:1]}
    assert child == 1
