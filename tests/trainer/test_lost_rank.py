"""A rank that dies or hangs: the others end in time and name it, a restart goes on from the newest checkpoint, nothing keeps running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from foldline.cli import main
from foldline.cluster.ranks import RankInfo, discover
from foldline.data_store.ingest import ingest
from foldline.errors import UNAVAILABLE
from foldline.trainer.heartbeat import Heartbeat, Watch
from foldline.trainer.journal import read_journal

from .test_skip import ROOT, write_config

STEPS, TIMEOUT = 30, 12.0
HERE = RankInfo(0, 0, 2, 2, 0, "alpha", "127.0.0.1", 1, "single")
THERE = RankInfo(1, 1, 2, 2, 1, "beta", "127.0.0.1", 1, "single")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "store"
    ingest(ROOT / "examples" / "demo", path)
    return path


class Job:
    """A training of two ranks on this host."""

    def __init__(self, folder: Path, store: Path, *more: str) -> None:
        config = write_config(folder, store)
        self.run = folder / "run"
        settings = [f"run.steps={STEPS}", "run.checkpoint_every=3", f"run.collective_timeout={TIMEOUT}", "data.workers=1"]
        program = [sys.executable, "-m", "foldline.cli", "train", "--config", str(config), "--launcher", "mpi", "--ranks", "2", *more]
        command = [*program, *(f"--set={setting}" for setting in settings)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for_checkpoint(self) -> None:
        end = time.monotonic() + 200
        while not list(self.run.glob("checkpoints/step_*/manifest.json")):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def rank(self, number: int) -> int:
        ranks = [p for p in self.family if "foldline.cli" in p.cmdline() and p.environ().get("OMPI_COMM_WORLD_RANK") == str(number)]
        return ranks[0].pid

    def end(self) -> tuple[int, str, float]:
        """Exit code, standard error, seconds that it took; asserts that no process is left."""
        start = time.monotonic()
        _, errors = self.process.communicate(timeout=200)
        took = time.monotonic() - start
        _, alive = psutil.wait_procs(self.family, timeout=TIMEOUT)
        assert [p.cmdline() for p in alive] == []
        return self.process.returncode, errors, took

    def weights(self) -> dict[str, bytes]:
        folder = self.run / "checkpoints" / f"step_{STEPS:08d}"
        return {
            f"{name}/{k}": v.numpy().tobytes() for name in ("model", "ema") for k, v in load_file(folder / f"{name}.safetensors").items()
        }


def test_a_killed_rank_is_restarted_from_the_newest_checkpoint(store: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    job = Job(tmp_path_factory.mktemp("killed"), store, "--max-restarts", "1")
    job.wait_for_checkpoint()
    os.kill(job.rank(1), signal.SIGKILL)
    code, errors, _ = job.end()
    assert code == 0, errors
    assert "restart 1 of 1 from " in errors
    assert [r.step for r in read_journal(job.run / "metrics.jsonl") if r.kind == "train"] == list(range(1, STEPS + 1))
    whole = Job(tmp_path_factory.mktemp("whole"), store)
    whole.wait_for_checkpoint()
    assert whole.end()[0] == 0
    assert job.weights() == whole.weights()


@pytest.mark.parametrize("number", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_hanging_rank_is_named_in_time(store: Path, tmp_path: Path, number: int) -> None:
    job = Job(tmp_path, store)
    job.wait_for_checkpoint()
    stopped = job.rank(number)
    os.kill(stopped, signal.SIGSTOP)
    code, errors, took = job.end()
    assert code == UNAVAILABLE, errors
    assert f"rank {number} on {os.uname().nodename} (process {stopped}" in errors
    assert took < TIMEOUT + 8  # and what mpirun takes to end the stopped one


@pytest.mark.slow
def test_ranks_end_with_their_launcher(store: Path, tmp_path: Path) -> None:
    job = Job(tmp_path, store)
    job.wait_for_checkpoint()
    job.process.kill()
    assert job.end()[0] == -signal.SIGKILL


def test_a_survivor_names_the_dead_rank_where_no_launcher_ends_it(store: Path, tmp_path: Path) -> None:
    config, port = write_config(tmp_path, store), discover({}).port  # a free one
    settings = ["run.steps=1000000", "run.checkpoint_every=1000000", f"run.collective_timeout={TIMEOUT}"]
    program = [sys.executable, "-m", "foldline.cli", "train", "--config", str(config), *(f"--set={setting}" for setting in settings)]
    ranks = []
    for number in range(2):
        place = {
            "RANK": number,
            "LOCAL_RANK": number,
            "WORLD_SIZE": 2,
            "LOCAL_WORLD_SIZE": 2,
            "MASTER_PORT": port,
            "TORCHELASTIC_RUN_ID": "x",
        }
        environment = os.environ | {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in place.items()}
        ranks.append(subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    journal, end = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 200
    while not journal.exists() or '"train"' not in journal.read_text():
        assert all(rank.poll() is None for rank in ranks), ranks[0].communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    ranks[1].kill()
    _, errors = ranks[0].communicate(timeout=TIMEOUT)
    ranks[1].communicate()
    assert ranks[0].returncode == UNAVAILABLE, errors
    assert f"rank 1 on {os.uname().nodename} (process {ranks[1].pid}" in errors
    assert "Traceback" not in errors


def test_silence_is_a_file_that_stays_as_it_is(tmp_path: Path) -> None:
    with Heartbeat(tmp_path, HERE, [HERE, THERE], 1000.0), Heartbeat(tmp_path, THERE, [HERE, THERE], 0.4) as beating:
        watch = Watch(tmp_path, [THERE])
        beating.at(7, "saving")
        time.sleep(0.3)
        watch.look()
        assert watch.silent(0.25) == []
        assert watch.everybody() == [f"rank 1 on beta (process {os.getpid()}, last in step 7: saving)"]
    time.sleep(0.3)
    watch.look()
    (told,) = watch.silent(0.25)
    assert told.startswith("rank 1 on beta")


def test_restarts_need_the_launcher(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", str(write_config(tmp_path, store)), "--max-restarts", "2"]) == 2
    assert "--max-restarts 2 needs --launcher mpi" in capsys.readouterr().err
