"""Rank discovery under each launcher, with real ranks of every MPI that is installed; sources that contradict each other."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foldline.cluster.hosts import place_of, scheduled_hosts, slurm_hosts, slurm_tasks
from foldline.cluster.launch import mpirun_command
from foldline.cluster.ranks import discover
from foldline.errors import FoldlineError

HERE = socket.gethostname()
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_ID": "77",
    "SLURM_NNODES": "2",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-09,12]-x,login",
}
TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "head",
    "MASTER_PORT": "29501",
    "TORCHELASTIC_RUN_ID": "r",
}
DEEPSPEED = {  # what its launch.py leaves
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_SIZE": "2",
    "CROSS_RANK": "1",
    "CROSS_SIZE": "2",
    "MASTER_ADDR": "head",
    "MASTER_PORT": "29501",
}
PMI2 = {"PMI_RANK": "5", "PMI_SIZE": "8", "PMI_FD": "8"}  # srun --mpi=pmi2
TELL = "import json, dataclasses as d, foldline.cluster.ranks as r; print(json.dumps(d.asdict(r.discover())), flush=True)"


def told(printed: str) -> list[dict[str, Any]]:
    """What the ranks said of themselves, in order; launchers may put two ranks' words on one line."""
    return sorted((json.loads(words) for words in re.findall(r"\{[^{}]*\}", printed)), key=lambda info: int(info["rank"]))


def test_alone_is_a_world_of_one() -> None:
    info = discover({})
    assert (info.rank, info.world, info.source) == (0, 1, "single")
    assert info.port > 0


@pytest.mark.parametrize("environment", [TORCHRUN, DEEPSPEED], ids=["torchrun", "deepspeed"])
def test_torchrun_and_deepspeeds_launcher(environment: dict[str, str]) -> None:
    info = discover(environment)
    assert (info.rank, info.world, info.local_rank, info.local_world, info.node) == (3, 4, 1, 2, 1)
    assert (info.address, info.port, info.source) == ("head", 29501, "torchrun")


@pytest.mark.parametrize("pmi", [{}, PMI2, {"PMIX_RANK": "5", "PMIX_NAMESPACE": "slurm.pmix.77.0"}], ids=["none", "pmi2", "pmix"])
def test_srun_ranks_agree_on_the_rendezvous(pmi: dict[str, str]) -> None:
    infos = []
    for rank in range(8):
        mine = {name: str(rank) if name.endswith("_RANK") else value for name, value in pmi.items()}
        infos.append(discover({**SRUN, **mine, "SLURM_PROCID": str(rank)}))
    assert [info.rank for info in infos] == list(range(8))
    assert len({(info.address, info.port) for info in infos}) == 1
    assert (infos[5].address, infos[5].local_world, infos[5].source) == ("gpu07-x", 4, "slurm")


def test_srun_on_uneven_nodes() -> None:
    step = {**SRUN, "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "6,2", "SLURM_NTASKS": "99"}
    assert discover({**step, "SLURM_PROCID": "7"}).local_world == 2
    assert discover({**step, "SLURM_NODEID": "0"}).local_world == 6


def test_srun_on_one_node_meets_on_the_loopback_and_the_users_address_counts() -> None:
    one = {**SRUN, "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.9"}  # started from a login node
    assert discover(one).address == "127.0.0.1"
    told = discover({**SRUN, "MASTER_ADDR": "ib-head", "MASTER_PORT": "4000"})
    assert (told.address, told.port) == ("ib-head", 4000)


@pytest.mark.parametrize("step", [None, "4294967291", "4294967290"], ids=["no step", "batch script", "interactive shell"])
def test_a_process_that_srun_did_not_start_is_not_its_rank(step: str | None) -> None:
    environment = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "77"} | ({"SLURM_STEP_ID": step} if step else {})
    assert discover(environment).source == "single"


def test_launchers_within_one_process_per_host_of_srun() -> None:
    outer = {**SRUN, "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    assert discover({**outer, **TORCHRUN}).source == "torchrun"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({**TORCHRUN, "RANK": "4"}, ["RANK=4"]),
        ({**TORCHRUN, "LOCAL_RANK": "2"}, ["LOCAL_RANK=2 of LOCAL_WORLD_SIZE=2"]),
        ({**TORCHRUN, "MASTER_PORT": "none"}, ["MASTER_PORT='none'"]),
        ({**TORCHRUN, "MASTER_ADDR": "127.0.0.1"}, ["several hosts", "127.0.0.1", "MASTER_ADDR"]),
        ({**SRUN, "SLURM_PROCID": "8"}, ["SLURM_PROCID=8"]),
        ({**SRUN, "SLURM_STEP_NODELIST": ""}, ["SLURM_STEP_NODELIST"]),
        ({**SRUN, "MASTER_ADDR": "localhost"}, ["several hosts", "localhost"]),
        # Two sources: both are named, with their variables.
        ({**SRUN, **TORCHRUN}, ["torchrun says RANK=3 of WORLD_SIZE=4", "srun says SLURM_PROCID=5 of SLURM_NTASKS=8"]),
        (
            {**SRUN, "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"},
            ["mpirun says OMPI_COMM_WORLD_RANK=1 of OMPI_COMM_WORLD_SIZE=4", "srun says SLURM_PROCID=5 of SLURM_NTASKS=8"],
        ),
        ({**SRUN, "RANK": "0", "WORLD_SIZE": "2"}, ["srun says SLURM_PROCID=5", "the environment says RANK=0 of WORLD_SIZE=2"]),
        ({**SRUN, "RANK": "0"}, ["srun says SLURM_PROCID=5", "the environment says RANK=0"]),
        ({"RANK": "3"}, ["RANK=3 is set without WORLD_SIZE, MASTER_ADDR, MASTER_PORT", "unset it"]),
        ({"RANK": "3", "WORLD_SIZE": "3", "MASTER_ADDR": "h", "MASTER_PORT": "1"}, ["RANK=3 of WORLD_SIZE=3"]),
        ({"PMI_RANK": "2", "PMI_SIZE": "2"}, ["PMI_RANK=2 of PMI_SIZE=2"]),
    ],
)
def test_contradictions_are_named(environment: dict[str, str], words: list[str]) -> None:
    with pytest.raises(FoldlineError) as caught:
        discover(environment)
    assert [word for word in words if word not in str(caught.value)] == []


def test_one_process_per_pod_of_a_pytorchjob() -> None:
    info = discover({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"})
    assert (info.rank, info.world, info.local_rank, info.local_world, info.node) == (1, 2, 0, 1, 1)
    assert (info.address, info.port, info.source) == ("job-master-0", 23456, "environment")


def test_blaunch_numbers_one_task_per_slot() -> None:
    job = {"LSB_JOBID": "12", "LSB_MCPU_HOSTS": f"other 2 {HERE} 2"}
    assert discover(job).source == "single", "the job script itself"
    info = discover({**job, "LSF_PM_TASKID": "4"})
    assert (info.rank, info.world, info.local_rank, info.local_world, info.node) == (3, 4, 1, 2, 1)
    assert (info.address, info.source) == ("other", "lsf")
    assert info.port == discover({**job, "LSF_PM_TASKID": "3"}).port
    with pytest.raises(FoldlineError, match=r"LSF_PM_TASKID=1, LSB_MCPU_HOSTS=.* not " + HERE):
        discover({**job, "LSF_PM_TASKID": "1"})


def test_pbsdsh_starts_one_task_per_host(tmp_path: Path) -> None:
    nodes = tmp_path / "nodes"
    job = {"PBS_JOBID": "81[3].server", "PBS_NODEFILE": str(nodes)}
    nodes.write_text(f"other.cluster\n{HERE.split('.')[0]}.cluster\n")
    assert discover({**job, "PBS_TASKNUM": "1"}).source == "single", "the job script itself"
    info = discover({**job, "PBS_TASKNUM": "2"})
    assert (info.rank, info.world, info.local_world, info.address, info.source) == (1, 2, 1, "other.cluster", "pbs")
    nodes.write_text(f"{HERE}\n" * 2 + "other\n" * 2)
    with pytest.raises(FoldlineError, match=r"gives \S+ 2 slots.*foldline launch"):
        discover({**job, "PBS_TASKNUM": "2"})


def test_host_lists(tmp_path: Path) -> None:
    assert slurm_hosts("gpu[07-09,12]-x,login") == ["gpu07-x", "gpu08-x", "gpu09-x", "gpu12-x", "login"]
    assert slurm_hosts("r[1-2]n[08-10]") == ["r1n08", "r1n09", "r1n10", "r2n08", "r2n09", "r2n10"]
    assert slurm_tasks("4(x2),3") == [4, 4, 3]
    (tmp_path / "nodes").write_text("a\na\nb\n")
    assert scheduled_hosts({"PBS_NODEFILE": str(tmp_path / "nodes")}) == ("PBS_NODEFILE", ["a", "a", "b"])
    assert scheduled_hosts({"LSB_MCPU_HOSTS": "a 2 b 1"}) == ("LSB_MCPU_HOSTS", ["a", "a", "b"])
    assert scheduled_hosts({"LSB_HOSTS": "a a b"}) == ("LSB_HOSTS", ["a", "a", "b"])
    assert scheduled_hosts({}) == ("", [])
    assert (place_of("b.cluster", ["a", "b"]), place_of("b", ["a.cluster", "b.cluster"]), place_of("c", ["a"])) == (1, 1, None)
    for broken in ({"LSB_MCPU_HOSTS": "a 2 b"}, {"PBS_NODEFILE": str(tmp_path / "none")}):
        with pytest.raises(FoldlineError, match=next(iter(broken))):
            scheduled_hosts(broken)


def test_real_mpi_ranks_agree() -> None:
    result = subprocess.run(mpirun_command(3, [sys.executable, "-c", TELL]), capture_output=True, text=True, timeout=120, check=True)
    infos = told(result.stdout)
    assert [info["rank"] for info in infos] == [info["local_rank"] for info in infos] == [0, 1, 2]
    assert {(info["world"], info["local_world"], info["node"], info["source"]) for info in infos} == {(3, 3, 0, "mpi")}
    assert len({(info["address"], info["port"]) for info in infos}) == 1


def test_mpirun_and_a_stale_rank_contradict_each_other() -> None:
    stale = {**os.environ, "RANK": "0", "WORLD_SIZE": "8", "MASTER_ADDR": "old", "MASTER_PORT": "1"}
    command = mpirun_command(2, [sys.executable, "-c", TELL])
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=stale)
    assert result.returncode
    assert "OMPI_COMM_WORLD_SIZE=2, but the environment says RANK=0 of WORLD_SIZE=8" in result.stderr


# The command of an MPI from the system, and the library that mpi4py must load for it ("" = the one it finds by itself).
SYSTEM = {"mpirun.openmpi": "libmpi.so.40", "mpiexec.hydra": "libmpi.so.12"}


@pytest.mark.parametrize("command", SYSTEM)
def test_an_mpi_of_the_system(command: str) -> None:
    program = shutil.which(command)
    if program is None:
        pytest.skip(f"{command} is not installed")
    flags = ["--oversubscribe", *(["--allow-run-as-root"] if os.geteuid() == 0 else [])] if "openmpi" in command else []
    libraries = [*Path(program).resolve().parents[1].glob(f"lib*/**/{SYSTEM[command]}")]
    if not libraries:
        pytest.skip(f"{command} comes without {SYSTEM[command]}, which mpi4py's wheel could load")
    run = [program, *flags, "-n", "2", sys.executable, "-c", TELL]
    environment = {**os.environ, "MPI4PY_LIBMPI": str(libraries[0])}
    result = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True, env=environment)
    infos = told(result.stdout)
    assert [(info["rank"], info["local_rank"], info["world"], info["source"]) for info in infos] == [(0, 0, 2, "mpi"), (1, 1, 2, "mpi")]


def test_an_mpirun_that_is_not_mpi4pys_is_named() -> None:
    program = shutil.which("mpiexec.mpich") or shutil.which("mpiexec.hydra")
    if program is None:
        pytest.skip("needs MPICH's mpiexec beside the Open MPI that mpi4py uses")
    result = subprocess.run([program, "-n", "2", sys.executable, "-c", TELL], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode
    assert "PMI_SIZE=2, but mpi4py sees rank 0 of 1: mpi4py is bound to another MPI (Open MPI" in result.stderr
