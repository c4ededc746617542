"""Who am I among the processes of this job? One ``RankInfo`` from torchrun, MPI, srun, blaunch, pbsdsh, plain variables or nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UNAVAILABLE, FoldlineError, missing_package
from .hosts import distinct, lsf_hosts, pbs_hosts, place_of, slurm_hosts, slurm_tasks
from .interfaces import is_loopback, source_address

# Each MPI's names for rank, size, local rank and local size; the first whose rank and size are set speaks.
MPI_VARIABLES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),  # Open MPI
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),  # MVAPICH
    ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_LOCAL_SIZE"),  # jsrun of LSF
    ("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"),  # Cray PALS; MPICH and srun --mpi=pmi2 without the local ones
)
HYDRA_LOCAL = ("MPI_LOCALRANKID", "MPI_LOCALNRANKS")  # local rank and size of MPICH's and Intel's mpiexec
NO_STEP = 0xFFFFFFF0  # Slurm's step ids from here on are its own: batch script, interactive shell, external processes


class RendezvousError(FoldlineError):
    """The ranks do not find each other; another start may have another port or other hosts, so a scheduler tries again."""

    exit_code = UNAVAILABLE


@dataclass(frozen=True)
class RankInfo:
    """This process's place in the job and where its ranks meet.

    ``rank`` of ``world`` in the job, ``local_rank`` of ``local_world`` on this host, ``node`` counts hosts from 0; ``address`` and
    ``port`` are rank 0's rendezvous; ``source`` is what told us: "torchrun", "mpi", "slurm", "lsf", "pbs", "environment" or "single".
    ``device``, ``numa`` (NUMA nodes), ``cpus`` and ``interface`` are filled in when the rank is bound (cluster/binding.py).
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
    device: str = ""
    numa: tuple[int, ...] = ()
    cpus: tuple[int, ...] = ()
    interface: str = ""

    def describe(self) -> str:
        """One line of the rank map."""
        line = f"rank {self.rank}/{self.world} local {self.local_rank}/{self.local_world} node {self.node} host {self.host} ({self.source})"
        if self.device:
            numa = f"NUMA {ranges(self.numa)}" if self.numa else "NUMA unknown"
            line += f" on {self.device}, {numa}, CPUs {ranges(self.cpus)}, interface {self.interface}"
        return line


@dataclass(frozen=True)
class Claim:
    """What one source says. None: it does not say. ``words`` are its variables, for messages."""

    source: str
    words: str
    rank: int | None
    world: int | None
    local_rank: int | None = None
    local_world: int | None = None
    node: int | None = None

    def contradicts(self, other: Claim) -> bool:
        """Whether both name a number and the numbers differ."""
        pairs = [(getattr(self, n), getattr(other, n)) for n in ("rank", "world", "local_rank", "local_world")]
        return any(a is not None and b is not None and a != b for a, b in pairs)


def discover(environment: Mapping[str, str] = os.environ) -> RankInfo:
    """Find this process's ``RankInfo`` from what its launcher left in ``environment``.

    An inner launcher knows more than the one around it: torchrun (and DeepSpeed's launcher, ``foldline launch``) over MPI over srun over
    blaunch and pbsdsh over bare RANK and WORLD_SIZE. The outer ones must say the same, or have started one process per host.
    Raises FoldlineError that names both sources when they contradict each other, and for a source that is incomplete.
    """
    claims = [claim for find in (_torchrun, _mpi_variables, _srun, _plain) if (claim := find(environment)) is not None]
    if not claims:
        return _from_tasks(environment) or _single()
    chosen, *others = claims
    for other in others:
        per_host = other.source in ("mpi", "slurm") and other.local_world == 1 and (other.world or 0) <= (chosen.world or 0)
        if chosen.contradicts(other) and not per_host:
            raise _contradiction(chosen, other)
    srun = next((claim for claim in claims if claim.source == "slurm"), None)
    if chosen.source == "mpi" and srun is not None and not chosen.contradicts(srun) and srun.world == chosen.world:
        chosen = srun  # srun's own PMI: its variables say all, and an MPI that cannot speak this PMI would see a world of one
    if chosen.source == "mpi":
        return _from_mpi(chosen, environment)
    if chosen.source == "slurm":
        return _from_slurm(chosen, environment)
    return _from_variables(chosen, environment)


def _torchrun(environment: Mapping[str, str]) -> Claim | None:
    if "TORCHELASTIC_RUN_ID" not in environment and "LOCAL_RANK" not in environment:
        return None
    rank, world = number_of(environment, "RANK", "torchrun"), number_of(environment, "WORLD_SIZE", "torchrun")
    local_rank = number_of(environment, "LOCAL_RANK", "torchrun")
    size = next((name for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE") if name in environment), "")  # torchrun's, DeepSpeed's
    local_world = number_of(environment, size, "torchrun") if size else None
    words = f"RANK={rank} of WORLD_SIZE={world}, LOCAL_RANK={local_rank}" + (f" of {size}={local_world}" if size else "")
    if not 0 <= rank < world or not 0 <= local_rank < (local_world or 1) <= world:
        raise FoldlineError(f"torchrun's variables contradict each other: {words}; unset stale ones or start through torchrun")
    node = next((int(environment[n]) for n in ("GROUP_RANK", "CROSS_RANK") if environment.get(n, "").isdigit()), None)
    return Claim("torchrun", words, rank, world, local_rank, local_world, node)


def _mpi_variables(environment: Mapping[str, str]) -> Claim | None:
    for names in MPI_VARIABLES:
        if names[0] in environment and names[1] in environment:
            rank, world = (number_of(environment, name, "mpirun") for name in names[:2])
            local = names[2:] if names[2] in environment else HYDRA_LOCAL
            local_rank, local_world = (int(environment[name]) if environment.get(name, "").isdigit() else None for name in local)
            words = f"{names[0]}={rank} of {names[1]}={world}"
            if not 0 <= rank < world:
                raise FoldlineError(f"mpirun's variables contradict each other: {words}; unset stale ones or start through mpirun")
            return Claim("mpi", words, rank, world, local_rank, local_world)
    return None


def _srun(environment: Mapping[str, str]) -> Claim | None:
    """A task of a step. In a batch script or an interactive shell, which srun did not start, it says nothing."""
    step = environment.get("SLURM_STEP_ID", "")
    if "SLURM_PROCID" not in environment or not step.isdigit() or int(step) >= NO_STEP:
        return None
    size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    rank, world = number_of(environment, "SLURM_PROCID", "srun"), number_of(environment, size, "srun")
    words = f"SLURM_PROCID={rank} of {size}={world}"
    if not 0 <= rank < world:
        raise FoldlineError(f"srun's variables contradict each other: {words}; start ranks with srun")
    node = number_of(environment, "SLURM_NODEID", "srun") if "SLURM_NODEID" in environment else 0
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    counts = slurm_tasks(tasks) if tasks else []
    named = next((name for name in ("SLURM_STEP_NUM_NODES", "SLURM_NNODES") if environment.get(name)), "")
    nodes = number_of(environment, named, "srun") if named else 1
    local_world = counts[node] if node < len(counts) else -(-world // nodes)
    return Claim("slurm", words, rank, world, number_of(environment, "SLURM_LOCALID", "srun"), local_world, node)


def _plain(environment: Mapping[str, str]) -> Claim | None:
    """Bare RANK and WORLD_SIZE, as Kubeflow's PyTorchJob gives one process per pod, or as an earlier session has left them behind."""
    if "LOCAL_RANK" in environment or "TORCHELASTIC_RUN_ID" in environment or "RANK" not in environment:
        return None
    rank = number_of(environment, "RANK", "the environment")
    world = number_of(environment, "WORLD_SIZE", "the environment") if "WORLD_SIZE" in environment else None
    return Claim("environment", f"RANK={rank}" + (f" of WORLD_SIZE={world}" if world is not None else ""), rank, world)


def _from_variables(claim: Claim, environment: Mapping[str, str]) -> RankInfo:
    """torchrun's or plain variables, which name the rendezvous too."""
    if claim.source == "environment":
        missing = [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if missing or not 0 <= (claim.rank or 0) < (claim.world or 0):
            without = f" without {', '.join(missing)}" if missing else ""
            raise FoldlineError(f"{claim.words} is set{without}, and no launcher around this process says so; unset it, or start the ranks")
    address, port = environment.get("MASTER_ADDR", "127.0.0.1"), number_of(environment, "MASTER_PORT", claim.source)
    local_world = claim.local_world or 1
    node = claim.node if claim.node is not None else (claim.rank or 0) // local_world
    _check_address(claim.source, address, local_world == claim.world)
    return RankInfo(
        claim.rank or 0, claim.local_rank or 0, claim.world or 1, local_world, node, socket.gethostname(), address, port, claim.source
    )


def _from_mpi(claim: Claim, environment: Mapping[str, str]) -> RankInfo:
    """Ask mpi4py, not variables: it works the same under Open MPI, MPICH and Intel MPI, and its ranks can agree on a port."""
    try:
        from mpi4py import MPI
    except ModuleNotFoundError:
        raise missing_package("mpi4py", "train", "a process started by mpirun") from None
    except (ImportError, RuntimeError) as error:
        reason = "; ".join(str(error).splitlines()[:2])
        raise FoldlineError(
            f"mpi4py cannot load an MPI library ({reason}); set MPI4PY_LIBMPI to the libmpi.so of this mpirun, or build mpi4py against it"
        ) from None
    world = MPI.COMM_WORLD
    local = world.Split_type(MPI.COMM_TYPE_SHARED)
    seen = Claim("mpi4py", f"mpi4py sees rank {world.Get_rank()} of {world.Get_size()}", world.Get_rank(), world.Get_size())
    if claim.contradicts(seen):
        library = MPI.Get_library_version().splitlines()[0].split(",")[0].strip("\0 ")
        raise FoldlineError(
            f"mpirun says {claim.words}, but {seen.words}: mpi4py is bound to another MPI ({library}); start with that one's mpirun, or "
            "set MPI4PY_LIBMPI to the libmpi.so of this mpirun"
        )
    host = socket.gethostname()
    hosts: list[str] = world.allgather(host)
    leaders: list[bool] = world.allgather(local.Get_rank() == 0)
    node = local.bcast(sum(leaders[: world.Get_rank() + 1]) - 1)
    alone = local.Get_size() == world.Get_size()
    address, port = world.bcast(_rendezvous(hosts, alone, environment) if world.Get_rank() == 0 else None)
    _check_address("mpi", address, alone)
    return RankInfo(world.Get_rank(), local.Get_rank(), world.Get_size(), local.Get_size(), node, host, address, port, "mpi")


def _from_slurm(claim: Claim, environment: Mapping[str, str]) -> RankInfo:
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "")
    if not hosts:
        raise FoldlineError("SLURM_STEP_NODELIST is empty, so rank 0's host is not known; start ranks with srun")
    alone = claim.local_world == claim.world
    address = environment.get("MASTER_ADDR") or ("127.0.0.1" if alone else slurm_hosts(hosts)[0])
    _check_address("MASTER_ADDR", address, alone or "MASTER_ADDR" not in environment)
    # Ranks cannot talk yet, so the port must follow from what all know: job and step ids. Below the ports that kernels hand out.
    port = 20000 + (number_of(environment, "SLURM_JOB_ID", "srun") * 31 + number_of(environment, "SLURM_STEP_ID", "srun")) % 10000
    if "MASTER_PORT" in environment:
        port = number_of(environment, "MASTER_PORT", "the environment")
    rank, world, local_rank, local_world = claim.rank or 0, claim.world or 1, claim.local_rank or 0, claim.local_world or 1
    return RankInfo(rank, local_rank, world, local_world, claim.node or 0, socket.gethostname(), address, port, "slurm")


def _from_tasks(environment: Mapping[str, str]) -> RankInfo | None:
    """One task per slot of blaunch, or one per host of pbsdsh; None in a job script, which neither of them started."""
    host = socket.gethostname()
    if "LSF_PM_TASKID" in environment and environment.get("LSB_MCPU_HOSTS"):
        slots = lsf_hosts(environment["LSB_MCPU_HOSTS"])
        rank = number_of(environment, "LSF_PM_TASKID", "blaunch") - 1
        if not 0 <= rank < len(slots) or place_of(host, [slots[rank]]) is None:
            raise FoldlineError(
                f"blaunch says LSF_PM_TASKID={rank + 1}, LSB_MCPU_HOSTS={environment['LSB_MCPU_HOSTS']!r} says that this is not {host}; "
                "start one task per slot (blaunch without -z), or one `foldline launch` per host"
            )
        return _from_slots("lsf", rank, slots, number_of(environment, "LSB_JOBID", "LSF"), environment)
    if environment.get("PBS_NODEFILE") and environment.get("PBS_TASKNUM", "1") != "1":
        slots = pbs_hosts(Path(environment["PBS_NODEFILE"]))
        at = place_of(host, distinct(slots))
        if len(distinct(slots)) == 1:
            return None  # one host: Torque numbers even the script's own task above 1
        if at is None or len(slots) != len(distinct(slots)):
            raise FoldlineError(
                f"pbsdsh does not number its tasks, and PBS_NODEFILE gives {host} {slots.count(host)} slots; start with mpirun, or one "
                "`foldline launch --ranks-per-node N` per host"
            )
        job = "".join(letter for letter in environment.get("PBS_JOBID", "0").split(".")[0] if letter.isdigit())
        return _from_slots("pbs", at, slots, int(job or 0), environment)
    return None


def _from_slots(source: str, rank: int, slots: Sequence[str], job: int, environment: Mapping[str, str]) -> RankInfo:
    host, port = slots[rank], 20000 + job * 31 % 10000
    address = environment.get("MASTER_ADDR") or (slots[0] if len(set(slots)) > 1 else "127.0.0.1")
    local_rank, node = list(slots[:rank]).count(host), distinct(slots).index(host)
    return RankInfo(rank, local_rank, len(slots), list(slots).count(host), node, socket.gethostname(), address, port, source)


def _single() -> RankInfo:
    return RankInfo(0, 0, 1, 1, 0, socket.gethostname(), "127.0.0.1", free_port(), "single")


def _rendezvous(hosts: Sequence[str], alone: bool, environment: Mapping[str, str]) -> tuple[str, int]:
    """Rank 0's address as the others see it, and a port: the user's where they are set."""
    others = [host for host in hosts if host != hosts[0]]
    found = "127.0.0.1" if alone or not others else source_address(others[0])
    if not found or (others and is_loopback(found)):
        found = hosts[0]
    port = number_of(environment, "MASTER_PORT", "the environment") if environment.get("MASTER_PORT") else free_port()
    return environment.get("MASTER_ADDR") or found, port


def _check_address(source: str, address: str, alone: bool) -> None:
    if not alone and (address == "localhost" or address.startswith("127.")):
        raise FoldlineError(
            f"the job spans several hosts, but {source} says that its ranks meet at {address}, which each host takes for itself; "
            "set MASTER_ADDR to rank 0's host, or unset it"
        )


def _contradiction(chosen: Claim, other: Claim) -> FoldlineError:
    names = {"torchrun": "torchrun", "mpi": "mpirun", "slurm": "srun", "environment": "the environment"}
    first, second = (f"{names[claim.source]} says {claim.words}" for claim in (chosen, other))
    return FoldlineError(f"{first}, but {second}; start the ranks with one launcher, and unset what an earlier session has left behind")


def number_of(environment: Mapping[str, str], name: str, launcher: str) -> int:
    """The variable ``name`` that ``launcher`` sets. Raises FoldlineError where it is no natural number."""
    value = environment.get(name, "")
    if not value.isdigit():
        raise FoldlineError(f"{launcher} left {name}={value!r}, which is not a number; start through {launcher} or unset it")
    return int(value)


def free_port() -> int:
    """A TCP port of this host that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def ranges(numbers: Sequence[int]) -> str:
    """(0, 1, 2, 5) -> '0-2,5'."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
