"""Who am I among the processes of this job? One ``RankInfo`` from mpi4py, Slurm, torchrun or a single process."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import FoldlineError, missing_package


@dataclass(frozen=True)
class RankInfo:
    """This process's place in the job and where its ranks meet.

    ``rank`` of ``world`` in the job, ``local_rank`` of ``local_world`` on this host, ``node`` counts hosts from 0; ``address`` and
    ``port`` are rank 0's rendezvous; ``source`` is what told us: "mpi", "slurm", "torchrun" or "single".
    """

    rank: int
    local_rank: int
    world: int
    local_world: int
    node: int
    host: str
    address: str
    port: int
    source: str

    def describe(self) -> str:
        """One line of the rank map."""
        return f"rank {self.rank}/{self.world} local {self.local_rank}/{self.local_world} node {self.node} host {self.host} ({self.source})"


def discover(environment: Mapping[str, str] = os.environ) -> RankInfo:
    """Find this process's ``RankInfo`` from what its launcher left in ``environment``.

    torchrun wins over MPI over Slurm, because an inner launcher knows more than the scheduler around it. Raises FoldlineError when the
    source that speaks is incomplete or contradicts itself.
    """
    if "TORCHELASTIC_RUN_ID" in environment or "LOCAL_RANK" in environment:
        return _from_torchrun(environment)
    if any(name in environment for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")):
        return _from_mpi()
    if "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:
        return _from_slurm(environment)
    host = socket.gethostname()
    return RankInfo(0, 0, 1, 1, 0, host, "127.0.0.1", _free_port(), "single")


def _from_torchrun(environment: Mapping[str, str]) -> RankInfo:
    rank, world = _number(environment, "RANK", "torchrun"), _number(environment, "WORLD_SIZE", "torchrun")
    local_rank = _number(environment, "LOCAL_RANK", "torchrun")
    local_world = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    if not 0 <= rank < world or not 0 <= local_rank < local_world:
        raise FoldlineError(
            f"torchrun's variables contradict each other: RANK={rank} of WORLD_SIZE={world}, LOCAL_RANK={local_rank} of "
            f"LOCAL_WORLD_SIZE={local_world}; unset stale ones or start through torchrun"
        )
    address, port = environment.get("MASTER_ADDR", "127.0.0.1"), _number(environment, "MASTER_PORT", "torchrun")
    return RankInfo(
        rank, local_rank, world, local_world, int(environment.get("GROUP_RANK", "0")), socket.gethostname(), address, port, "torchrun"
    )


def _from_mpi() -> RankInfo:
    """Ask mpi4py, not variables: it works the same under Open MPI, MPICH and Intel MPI."""
    try:
        from mpi4py import MPI
    except ImportError:
        raise missing_package("mpi4py", "train", "a process started by mpirun") from None
    world = MPI.COMM_WORLD
    local = world.Split_type(MPI.COMM_TYPE_SHARED)
    host = socket.gethostname()
    leaders = world.allgather(local.Get_rank() == 0)
    node = sum(leaders[: world.Get_rank() + 1]) - 1 if local.Get_rank() == 0 else 0
    node = local.bcast(node)
    alone = local.Get_size() == world.Get_size()
    address, port = world.bcast(("127.0.0.1" if alone else _address(host), _free_port()) if world.Get_rank() == 0 else None)
    return RankInfo(world.Get_rank(), local.Get_rank(), world.Get_size(), local.Get_size(), node, host, address, port, "mpi")


def _from_slurm(environment: Mapping[str, str]) -> RankInfo:
    rank, world = _number(environment, "SLURM_PROCID", "srun"), _number(environment, "SLURM_NTASKS", "srun")
    if not 0 <= rank < world:
        raise FoldlineError(f"srun's variables contradict each other: SLURM_PROCID={rank} of SLURM_NTASKS={world}; start ranks with srun")
    nodes = int(environment.get("SLURM_NNODES", "1"))
    address = environment.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1") if nodes == 1 else _first_host(environment)
    # Ranks cannot talk yet, so the port must follow from what all of them know: the job and step ids.
    port = 20000 + (_number(environment, "SLURM_JOB_ID", "srun") * 31 + _number(environment, "SLURM_STEP_ID", "srun")) % 20000
    return RankInfo(
        rank,
        _number(environment, "SLURM_LOCALID", "srun"),
        world,
        -(-world // nodes),
        int(environment.get("SLURM_NODEID", "0")),
        socket.gethostname(),
        address,
        port,
        "slurm",
    )


def _first_host(environment: Mapping[str, str]) -> str:
    """First name of Slurm's compressed host list: 'gpu[07-09,12],x' -> 'gpu07'."""
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "")
    if not hosts:
        raise FoldlineError("SLURM_STEP_NODELIST is empty, so rank 0's host is not known; start ranks with srun")
    prefix, bracket, rest = hosts.partition("[")
    if not bracket or "," in prefix:
        return hosts.split(",")[0]
    first = rest.split("]")[0].replace(",", "-").split("-")[0]
    suffix = rest.split("]", 1)[1].split(",")[0]
    return f"{prefix}{first}{suffix}"


def _number(environment: Mapping[str, str], name: str, launcher: str) -> int:
    value = environment.get(name, "")
    if not value.isdigit():
        raise FoldlineError(f"{launcher} left {name}={value!r}, which is not a number; start through {launcher} or unset it")
    return int(value)


def _address(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError:
        return host


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
