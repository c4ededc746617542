"""Rank discovery under each launcher; MPI with real ranks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from foldline.cluster.launch import mpirun_command
from foldline.cluster.ranks import discover
from foldline.errors import FoldlineError

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


def test_alone_is_a_world_of_one() -> None:
    info = discover({})
    assert (info.rank, info.world, info.source) == (0, 1, "single")
    assert info.port > 0


def test_torchrun() -> None:
    info = discover(TORCHRUN)
    assert (info.rank, info.world, info.local_rank, info.local_world, info.node) == (3, 4, 1, 2, 1)
    assert (info.address, info.port, info.source) == ("head", 29501, "torchrun")


def test_srun_ranks_agree_on_the_rendezvous() -> None:
    infos = [discover({**SRUN, "SLURM_PROCID": str(rank)}) for rank in range(8)]
    assert [info.rank for info in infos] == list(range(8))
    assert len({(info.address, info.port) for info in infos}) == 1
    assert (infos[5].address, infos[5].local_world, infos[5].source) == ("gpu07-x", 4, "slurm")


def test_a_batch_step_without_srun_is_not_a_rank() -> None:
    assert discover({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "77"}).source == "single"


@pytest.mark.parametrize(
    ("environment", "word"),
    [
        ({**TORCHRUN, "RANK": "4"}, "RANK=4"),
        ({**TORCHRUN, "MASTER_PORT": "none"}, "MASTER_PORT='none'"),
        ({**SRUN, "SLURM_PROCID": "8"}, "SLURM_PROCID=8"),
        ({**SRUN, "SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST"),
    ],
)
def test_contradictions_are_named(environment: dict[str, str], word: str) -> None:
    with pytest.raises(FoldlineError, match=word):
        discover(environment)


def test_real_mpi_ranks_agree() -> None:
    code = "import json, dataclasses as d, foldline.cluster.ranks as r; print(json.dumps(d.asdict(r.discover())), flush=True)"
    result = subprocess.run(mpirun_command(3, [sys.executable, "-c", code]), capture_output=True, text=True, timeout=120, check=True)
    infos = sorted((json.loads(line) for line in result.stdout.splitlines()), key=lambda info: info["rank"])
    assert [info["rank"] for info in infos] == [info["local_rank"] for info in infos] == [0, 1, 2]
    assert {(info["world"], info["local_world"], info["node"], info["source"]) for info in infos} == {(3, 3, 0, "mpi")}
    assert len({(info["address"], info["port"]) for info in infos}) == 1
