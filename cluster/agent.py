"""``foldline launch``: the ranks of one host of a job, started once per host by whatever the site has (pbsdsh, blaunch, ssh, a pod)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import FoldlineError
from .hosts import distinct, place_of, scheduled_hosts
from .launch import FORWARDED, die_with_parent
from .ranks import free_port, number_of

LOST = 69  # a rank was killed: start again with --resume, as the ranks themselves say when they miss another (EX_UNAVAILABLE)
GRACE = 30.0  # seconds that the other ranks have to end by themselves when one has failed
# Kubeflow's names of a pod's place: node, number of nodes, rendezvous; the trainer's, then the older PyTorchJob's.
POD_VARIABLES = (
    ("PET_NODE_RANK", "PET_NNODES", "PET_MASTER_ADDR", "PET_MASTER_PORT"),
    ("PET_NODE_RANK", "PET_NNODES", "MASTER_ADDR", "MASTER_PORT"),
)


@dataclass(frozen=True)
class HostPlace:
    """This host among the job's ``nodes``, and where the ranks meet."""

    node: int
    nodes: int
    address: str
    port: int


def launch(ranks: int, place: HostPlace, arguments: Sequence[str]) -> int:
    """Run ``foldline ARGUMENTS`` as ranks ``place.node * ranks`` and so on of ``place.nodes * ranks``.

    Returns the exit code of the first that failed, else 0. SIGTERM and SIGUSR1 are passed on as SIGUSR1, so that the ranks save. A rank
    that was killed counts as exit code 69. When a rank fails, the others have 30 s to end by themselves.
    """
    if ranks < 1:
        raise FoldlineError(f"--ranks-per-node {ranks} is less than 1; give the number of processes to start on each host")
    program = [sys.executable, "-m", "foldline.cli", *arguments]
    before_start = die_with_parent() if sys.platform == "linux" else None
    if before_start is not None:
        before_start()  # a remote shell that dies, or is killed with its job, must not leave ranks behind
    running: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: object) -> None:
        for rank in running:
            if rank.poll() is None:
                rank.send_signal(signal.SIGUSR1)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        for local_rank in range(ranks):
            environment = {**os.environ, **rank_variables(place, ranks, local_rank)}
            running.append(subprocess.Popen(program, env=environment, preexec_fn=before_start))
        return _wait(running)
    finally:
        for rank in running:
            rank.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def rank_variables(place: HostPlace, ranks: int, local_rank: int) -> dict[str, str]:
    """torchrun's variables for one rank, which `foldline` commands and other programs read alike."""
    return {
        "RANK": str(place.node * ranks + local_rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(place.nodes * ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": str(place.node),
        "MASTER_ADDR": place.address,
        "MASTER_PORT": str(place.port),
    }


def find_place(environment: Mapping[str, str]) -> HostPlace:
    """This host's place, from Kubeflow's variables, one srun task per host, or the host list of PBS, LSF or Slurm; else a job of one host.

    Raises FoldlineError where the host is not in the list.
    """
    for node, nodes, address, port in POD_VARIABLES:
        if all(environment.get(name) for name in (node, nodes, address, port)):
            here, all_, meeting = (number_of(environment, name, "Kubeflow") for name in (node, nodes, port))
            return HostPlace(here, all_, environment[address], meeting)
    source, slots = scheduled_hosts(environment)
    hosts = distinct(slots)
    if len(hosts) < 2:
        return HostPlace(0, 1, "127.0.0.1", free_port())
    mine = environment["SLURMD_NODENAME"] if source.startswith("SLURM") and "SLURMD_NODENAME" in environment else socket.gethostname()
    node_number = place_of(mine, hosts)
    if node_number is None:
        raise FoldlineError(f"this host, {mine}, is not in {source} ({', '.join(hosts)}); give --node, --nodes, --address and --port")
    job = next((environment[name] for name in ("PBS_JOBID", "LSB_JOBID", "SLURM_JOB_ID") if environment.get(name)), "")
    number = int("".join(letter for letter in job.split(".")[0] if letter.isdigit()) or 0)
    return HostPlace(node_number, len(hosts), hosts[0], 20000 + number * 31 % 10000)


def _wait(running: Sequence[subprocess.Popen[bytes]]) -> int:
    first, deadline = 0, 0.0
    while True:
        codes = [rank.poll() for rank in running]
        failed = [code for code in codes if code]
        if failed and not first:
            first, deadline = (LOST if failed[0] < 0 else failed[0]), time.monotonic() + GRACE
        if None not in codes:
            return first
        if first and time.monotonic() > deadline:
            late = [str(number) for number, code in enumerate(codes) if code is None]
            print(f"foldline: a rank ended with code {first}; killing local ranks {', '.join(late)}, which go on", file=sys.stderr)
            for rank in running:
                rank.kill()
        try:
            time.sleep(0.1)
        except KeyboardInterrupt:  # the terminal has interrupted the ranks too
            continue
