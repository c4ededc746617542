"""`foldline launch`: places on every kind of cluster, exit codes, signals, no rank left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from foldline.cluster import agent
from foldline.cluster.agent import HostPlace, find_place, launch, rank_variables
from foldline.cluster.ranks import discover
from foldline.errors import FoldlineError

HERE = socket.gethostname()
PLACE = HostPlace(1, 2, "head", 20077)


def test_variables_make_a_rank() -> None:
    found = discover(rank_variables(PLACE, 4, 2))
    assert (found.rank, found.world, found.local_rank, found.local_world, found.node) == (6, 8, 2, 4, 1)
    assert (found.address, found.port, found.source) == ("head", 20077, "torchrun")


def test_places(tmp_path: Path) -> None:
    nodes = tmp_path / "nodes"
    nodes.write_text(f"head\nhead\n{HERE}\n{HERE}\n")
    assert find_place({"PBS_NODEFILE": str(nodes), "PBS_JOBID": "81[3].server"}) == HostPlace(1, 2, "head", 20000 + 813 * 31 % 10000)
    assert find_place({"LSB_MCPU_HOSTS": f"head 2 {HERE} 2", "LSB_JOBID": "7"}) == HostPlace(1, 2, "head", 20217)
    slurm = {"SLURM_JOB_NODELIST": "gpu[1-3]", "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "gpu3"}
    assert find_place(slurm) == HostPlace(2, 3, "gpu1", 20217)
    pod = {"PET_NODE_RANK": "1", "PET_NNODES": "2", "PET_MASTER_ADDR": "a", "PET_MASTER_PORT": "29400"}
    assert find_place(pod) == HostPlace(1, 2, "a", 29400)
    alone = find_place({})
    assert (alone.node, alone.nodes, alone.address) == (0, 1, "127.0.0.1")
    nodes.write_text("one\ntwo\n")
    with pytest.raises(FoldlineError, match=f"this host, {HERE}, is not in PBS_NODEFILE .one, two."):
        find_place({"PBS_NODEFILE": str(nodes)})
    with pytest.raises(FoldlineError, match="--ranks-per-node 0"):
        launch(0, PLACE, ["doctor"])


def start(code: str, ranks: int, folder: Path) -> subprocess.Popen[str]:
    """`launch` in a process of its own, its ranks running ``code`` in foldline's place."""
    stub = folder / "rank.py"
    stub.write_text("import json, os, signal, sys, time\n" + code)
    call = f"import sys; sys.executable = {str(folder / 'python')!r}; from foldline.cluster import agent; agent.GRACE = 2.0; "
    call += f"sys.exit(agent.launch({ranks}, agent.HostPlace(0, 1, '127.0.0.1', 20077), ['x']))"
    wrapper = folder / "python"
    wrapper.write_text(f"#!/bin/sh\nexec {sys.executable} {stub}\n")
    wrapper.chmod(0o755)
    return subprocess.Popen([sys.executable, "-c", call], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_every_rank_has_its_place_and_the_code_of_the_first_that_fails_comes_back(tmp_path: Path) -> None:
    code = "os.write(1, (json.dumps({'RANK': os.environ['RANK']}) + '\\n').encode())\nsys.exit(2 * (os.environ['RANK'] == '1'))"
    job = start(code, 3, tmp_path)
    said, _ = job.communicate(timeout=60)
    assert sorted(json.loads(line)["RANK"] for line in said.splitlines()) == ["0", "1", "2"]
    assert job.returncode == 2


def test_a_killed_rank_counts_as_lost_and_the_rest_is_killed_after_a_while(tmp_path: Path) -> None:
    job = start("os.kill(os.getpid(), 9) if os.environ['RANK'] == '1' else time.sleep(600)", 2, tmp_path)
    try:
        said, _ = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode == agent.LOST
    assert "a rank ended with code 69; killing local ranks 0" in said


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
def test_a_warning_reaches_every_rank_as_usr1(tmp_path: Path, sent: signal.Signals) -> None:
    code = "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))\nos.write(1, b'ready\\n')\ntime.sleep(600)"
    job = start(code, 2, tmp_path)
    try:
        assert job.stdout is not None
        assert [job.stdout.readline().strip() for _ in range(2)] == ["ready", "ready"]
        job.send_signal(sent)
        assert job.wait(60) == 75
    finally:
        job.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's order to die with a parent")
def test_no_rank_outlives_a_killed_launcher(tmp_path: Path) -> None:
    job = start("os.write(1, b'%d\\n' % os.getpid())\ntime.sleep(600)", 2, tmp_path)
    assert job.stdout is not None
    ranks = [int(job.stdout.readline()) for _ in range(2)]
    job.kill()
    job.wait(60)
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in ranks if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


def test_the_command_line_wants_all_of_a_place_or_nothing() -> None:
    command = [sys.executable, "-m", "foldline.cli", "launch", "--ranks-per-node", "1", "--node", "0", "--", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 2
    assert "--nodes, --node, --address and --port go together" in done.stderr
