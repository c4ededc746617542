"""A rank that dies or hangs: the others end in time and name it, a restart goes on from the newest checkpoint, nothing keeps running."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foldline.cli import main
from foldline.cluster.ranks import RankInfo, discover
from foldline.errors import UNAVAILABLE, FoldlineError
from foldline.trainer import heartbeat
from foldline.trainer.heartbeat import Heartbeat, LostRankError, Watch
from foldline.trainer.run_state import settle, state_of, tell

from .runs import Job
from .test_skip import write_config

STEPS, TIMEOUT = 30, 12.0
HERE = RankInfo(0, 0, 2, 2, 0, "alpha", "127.0.0.1", 1, "single")
THERE = RankInfo(1, 1, 2, 2, 1, "beta", "127.0.0.1", 1, "single")


def start(folder: Path, store: Path) -> Job:
    settings = (f"run.steps={STEPS}", "run.checkpoint_every=3", f"run.collective_timeout={TIMEOUT}", "data.workers=1")
    job = Job(write_config(folder, store), overrides=settings)
    job.wait_for_checkpoint()
    return job


@pytest.mark.parametrize("number", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_hanging_rank_is_named_in_time(store: Path, tmp_path: Path, number: int) -> None:
    job = start(tmp_path, store)
    stopped = job.rank(number)
    os.kill(stopped, signal.SIGSTOP)
    begun = time.monotonic()
    code, _, errors = job.end()
    took = time.monotonic() - begun
    assert code == UNAVAILABLE, errors
    assert f"rank {number} on {os.uname().nodename} (process {stopped}" in errors
    assert took < TIMEOUT + 8  # and what mpirun takes to end the stopped one


@pytest.mark.slow
def test_ranks_end_with_their_launcher(store: Path, tmp_path: Path) -> None:
    job = start(tmp_path, store)
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
    watch.look()  # at the last beat
    time.sleep(0.3)
    watch.look()
    (told,) = watch.silent(0.25)
    assert told.startswith("rank 1 on beta")


def test_a_rank_that_left_by_an_error_is_followed(tmp_path: Path) -> None:
    """Where no launcher ends the others: they take over message and exit code, whether their collective fails or they look around."""
    with pytest.raises(FoldlineError, match="disk"), Heartbeat(tmp_path, THERE, [HERE, THERE], 0.4):
        raise FoldlineError("the disk is not reliable")
    left = Watch(tmp_path, [THERE]).left()
    assert left is not None
    assert (str(left), left.exit_code) == ("rank 1 on beta ended: the disk is not reliable", 2)
    with pytest.raises(LostRankError, match="rank 1 on beta ended: the disk") as raised, Heartbeat(tmp_path, HERE, [HERE, THERE], 0.4):
        raise RuntimeError("[gloo] Connection closed by peer")
    assert raised.value.exit_code == 2
    with Heartbeat(tmp_path, THERE, [HERE, THERE], 0.4):  # started again
        assert Watch(tmp_path, [THERE]).left() is None


def test_ranks_that_lose_each_other_while_they_live_are_lost_not_failed(tmp_path: Path) -> None:
    with (
        Heartbeat(tmp_path, THERE, [HERE, THERE], 0.4),
        pytest.raises(LostRankError, match=r"step 0: the ranks lost each other \(.*by peer\); rank 1 on beta") as raised,
        Heartbeat(tmp_path, HERE, [HERE, THERE], 0.4),
    ):
        raise RuntimeError("[gloo] Connection closed by peer")
    assert raised.value.exit_code == UNAVAILABLE
    assert Watch(tmp_path, [HERE]).left() is None  # the others must not take it for the cause


def test_a_full_disk_is_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Heartbeat(tmp_path, THERE, [HERE, THERE], 0.4):
        monkeypatch.setattr(heartbeat, "write_atomic", no_room)
        watch = Watch(tmp_path, [THERE])
        time.sleep(0.3)
        watch.look()
        assert watch.silent(0.25) == []


def no_room(path: Path, data: str) -> None:
    raise OSError(28, "No space left on device")


def test_the_state_is_what_is_true(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    assert state_of(state) == ""
    tell(state, "running")
    assert state_of(state) == "running"
    dead = subprocess.Popen(["true"])
    dead.wait()
    state.write_text(json.dumps({"state": "running", "time": 1.0, "host": socket.gethostname(), "pid": dead.pid}))
    assert state_of(state) == "lost"
    state.write_text(json.dumps({"state": "running", "time": 1.0, "host": "elsewhere", "pid": dead.pid}))
    assert state_of(state) == "running"  # cannot be seen from here
    settle(state, 137)
    assert state_of(state) == "lost"
    for code, name in ((2, "failed"), (75, "stopped"), (UNAVAILABLE, "lost")):
        tell(state, "running")
        settle(state, code)
        assert state_of(state) == name
    settle(state, 2)
    assert state_of(state) == "lost"  # what a rank told is not corrected


def test_restarts_need_the_launcher(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", str(write_config(tmp_path, store)), "--max-restarts", "2"]) == 2
    assert "--max-restarts 2 needs --launcher mpi" in capsys.readouterr().err
