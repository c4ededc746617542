"""Training over two hosts with addresses of their own: torchrun, mpirun and DeepSpeed's launcher; a link cut in mid-run; odd hosts."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import Popen

import pytest
from safetensors.torch import load_file

from foldline.cluster.launch import find_mpirun
from foldline.data_store.ingest import ingest
from foldline.errors import UNAVAILABLE
from foldline.trainer.journal import read_journal

from ..trainer.runs import NETWORK
from .hosts import ROOT, Hosts, finish, mpirun, torchrun, two_hosts

pytestmark = pytest.mark.slow
STEPS, TIMEOUT = 24, 30.0  # seconds, with which the link is cut: far above what a busy machine takes to a step
CONFIG = f"""{NETWORK}
[data]
store = "STORE"
[run]
dir = "RUN"
steps = 24
checkpoint_every = 3
threads = 1
device = "cpu"
collective_timeout = 120.0
[validate]
trained_chains = 0
[tracking]
mlflow = false
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with two_hosts(tmp_path_factory.mktemp("hosts")) as pair:
        yield pair


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "store"
    ingest(ROOT / "examples" / "demo", path)
    return path


@pytest.fixture(scope="module")
def undisturbed(hosts: Hosts, store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The weights of a run that torchrun started and nothing disturbed."""
    config = write_config(tmp_path_factory.mktemp("whole"), store)
    ended_well(torchrun(hosts, ["train", "--config", str(config)]), config)
    return weights(config)


def write_config(folder: Path, store: Path) -> Path:
    path = folder / "config.toml"
    path.write_text(CONFIG.replace("STORE", str(store)).replace("RUN", str(folder / "run")))
    return path


def weights(config: Path) -> dict[str, bytes]:
    folder = config.parent / "run" / "checkpoints" / f"step_{STEPS:08d}"
    return {f"{n}/{k}": v.numpy().tobytes() for n in ("model", "ema") for k, v in load_file(folder / f"{n}.safetensors").items()}


def ended_well(jobs: Sequence[Popen[str]], config: Path) -> None:
    results = finish(jobs, 400)
    assert [code for code, _, _ in results] == [0] * len(jobs), results
    steps = [record.step for record in read_journal(config.parent / "run" / "metrics.jsonl") if record.kind == "train"]
    assert steps == list(range(1, STEPS + 1))


def wait_for_checkpoint(config: Path, jobs: Sequence[Popen[str]]) -> None:
    end = time.monotonic() + 300
    while not list(config.parent.glob("run/checkpoints/step_*/manifest.json")):
        assert all(job.poll() is None for job in jobs), [job.communicate() for job in jobs]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_both_sides_of_a_cut_link_end_in_time_and_name_each_other(
    hosts: Hosts, store: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    config = write_config(tmp_path, store)
    jobs = torchrun(hosts, ["train", "--config", str(config), "--set=run.steps=100000", f"--set=run.collective_timeout={TIMEOUT}"])
    wait_for_checkpoint(config, jobs)
    hosts.cut()
    start = time.monotonic()
    try:
        results = finish(jobs, 200)
        took = time.monotonic() - start
    finally:
        hosts.join()
    for (code, _, errors), other, name in zip(results, (1, 0), reversed(hosts.names), strict=True):
        assert code != 0
        assert f"rank {other} on {name}" in errors
        assert "crash bundle: " in errors
    assert took < 3 * TIMEOUT  # the collective's time-out, the look at who is left, the bundle
    (folder,) = (tmp_path / "run" / "crash").glob("*_rank_*")
    assert sorted(path.name for path in folder.glob("rank_*.txt")) == ["rank_00000.txt", "rank_00001.txt"]
    ended_well(torchrun(hosts, ["train", "--config", str(config), "--resume"]), config)
    assert weights(config) == undisturbed


def test_mpirun_starts_ranks_on_both_hosts(hosts: Hosts, store: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    config = write_config(tmp_path, store)
    ended_well([mpirun(hosts, find_mpirun(), ["train", "--config", str(config)])], config)
    assert weights(config) == undisturbed
    ranks = json.loads((tmp_path / "run" / "environment.json").read_text())["ranks"]
    assert [f"host {name} (mpi)" in line for name, line in zip(hosts.names, ranks, strict=True)] == [True, True]


def test_deepspeeds_launcher_starts_ranks_on_both_hosts(hosts: Hosts, store: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    config, listed = write_config(tmp_path, store), tmp_path / "hostfile"
    listed.write_text("".join(f"{name} slots=1\n" for name in hosts.names))
    deepspeed = str(Path(sys.executable).with_name("deepspeed"))
    meeting = ["--hostfile", str(listed), "--no_ssh", "--no_local_rank", "--master_addr", "10.77.0.1", "--master_port", "29531"]
    program = ["--module", "foldline.cli", "train", "--config", str(config)]
    jobs = [hosts.start(name, deepspeed, *meeting, "--node_rank", str(n), *program) for n, name in enumerate(hosts.names)]
    ended_well(jobs, config)
    assert weights(config) == undisturbed


def preflight(hosts: Hosts, config: Path, *more: str, **second: str) -> tuple[int, str]:
    """Exit code and table of the preflight of both hosts; ``second`` is environment of the second one alone."""
    (code, out, errors), _ = finish(torchrun(hosts, ["preflight", "--config", str(config), *more], **second), 200)
    assert "Traceback (most recent call last):\n  File" not in errors.split("torch/distributed/elastic")[0], errors
    return code, " ".join(out.split())


def test_hosts_that_are_alike_pass(hosts: Hosts, store: Path, tmp_path: Path) -> None:
    code, table = preflight(hosts, write_config(tmp_path, store))
    assert code == 0, table
    assert "1 pair of hosts: at least" in table


def test_a_link_that_carries_too_little_is_named(hosts: Hosts, store: Path, tmp_path: Path) -> None:
    hosts.slow_down("20mbit")
    try:
        code, table = preflight(hosts, write_config(tmp_path, store), "--set=preflight.link_gbit=1.0")
    finally:
        hosts.full_speed()
    assert code != 0
    assert f"rank 0 on {hosts.one} - rank 1 on {hosts.two}: all-reduce 0.02 Gbit/s, less than 30% of the link's 1" in table


CLOCK = "import time\n_true = time.time\ntime.time = lambda: _true() + 90.0\n"


def test_another_clock_and_another_version_are_named(hosts: Hosts, store: Path, tmp_path: Path) -> None:
    place = tmp_path / "second" / "numpy-0.1.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.1\n")
    (place.parent / "sitecustomize.py").write_text(CLOCK)
    code, table = preflight(hosts, write_config(tmp_path, store), PYTHONPATH=str(place.parent))
    assert code != 0
    assert f"rank 1 on {hosts.two} has numpy 0.1, rank 0 on {hosts.one} " in table
    assert f"the clock of rank 1 on {hosts.two} is 9" in table
    assert f"s ahead of that of rank 0 on {hosts.one}, the limit is 0.5 s" in table


def test_a_training_that_an_odd_host_keeps_from_starting_may_start_again(hosts: Hosts, store: Path, tmp_path: Path) -> None:
    """Exit code 69: a scheduler starts it again, perhaps without that host. What a start on any hosts would meet is code 2."""
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    config = write_config(tmp_path, store)
    (first, _, errors), (second, _, _) = by_hand(hosts, config, "train", 29551, PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    assert (first, second) == (UNAVAILABLE, UNAVAILABLE)
    assert "the preflight failed: clock; the table above says why" in errors
    assert f"without {hosts.two} it would have passed" in errors
    report = json.loads((tmp_path / "run" / "preflight.json").read_text())
    assert (report["failed"], report["odd_hosts"]) == (["clock"], [hosts.two])
    assert report["seconds"] < 60
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    everywhere = by_hand(hosts, config, "train", 29561, "--set=run.keep_last=100000000")
    assert [code for code, _, _ in everywhere] == [2, 2]


def by_hand(hosts: Hosts, config: Path, command: str, port: int, *more: str, **second: str) -> list[tuple[int, str, str]]:
    """A rank on each host without a launcher, so that its exit code is seen; ``second`` is environment of the second one alone."""
    place = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": str(port)}
    program = [sys.executable, "-m", "foldline.cli", command, "--config", str(config), *more]
    jobs = [
        hosts.start(name, *program, RANK=str(rank), GROUP_RANK=str(rank), **place, **(second if rank else {}))
        for rank, name in enumerate(hosts.names)
    ]
    return finish(jobs, 200)


def test_hosts_that_do_not_reach_each_other_say_so_in_time(hosts: Hosts, store: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, store)
    hosts.cut()
    try:
        (first, _, errors), (second, _, others) = by_hand(hosts, config, "preflight", 29541, "--set=preflight.seconds=8")
    finally:
        hosts.join()
    assert (first, second) == (UNAVAILABLE, UNAVAILABLE)
    assert f"rank 1 of 2 did not come to 10.77.0.1:29541 within 8 s; those of {hosts.one} did" in errors
    assert f"rank 1 on {hosts.two} cannot meet the others at 10.77.0.1:29541" in others


def test_added_latency_is_named(store: Path, tmp_path: Path) -> None:
    with two_hosts(tmp_path, suffix="l") as late:
        late.delay(0.05)
        code, table = preflight(late, write_config(tmp_path, store))
        assert code != 0
        assert f"rank 0 on {late.one} - rank 1 on {late.two}: 10" in table  # 2 x 50 ms and a little
        assert "ms for the smallest all-reduce, at most 5 ms are expected" in table
