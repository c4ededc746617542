"""Crash bundles: what every living rank was doing when a run ended abnormally, without secrets, the newest few."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import pytest

from foldline.cluster.launch import mpirun_command
from foldline.cluster.ranks import RankInfo
from foldline.data_store.loader import TrainLoader
from foldline.errors import FoldlineError
from foldline.trainer.config import RunConfig, load_config
from foldline.trainer.crash import Crash, bundle_from_outside, samples_of
from foldline.trainer.incident import HIDDEN, KEPT, IncidentFolder, forget, without_secrets
from foldline.trainer.rundir import RunDir

from .test_skip import write_config


def place(rank: int) -> RankInfo:
    return RankInfo(rank, rank, 2, 2, 0, os.uname().nodename, "127.0.0.1", 1, "single")


def fail_in(crash: Crash, step: int) -> None:
    with crash, ExitStack() as stack:
        stack.push(crash.seen)  # at once, and again at the end of ``crash``, as in a run
        crash.at(step)
        raise FoldlineError("too many")


@pytest.fixture
def config(store: Path, tmp_path: Path) -> RunConfig:
    return load_config(write_config(tmp_path, store), ["run.micro_batch=2", "run.accumulate=2", "tracking.uri=http://me:hunter2@host/x"])


def test_the_samples_of_a_step_are_those_that_the_loader_gives(config: RunConfig) -> None:
    for rank in range(2):
        given = {"rank": rank, "world": 2, "micro_batch": 2, "start_step": 2 * 2, "accumulate": 2}
        with TrainLoader(config.data.store, config.data, config.features, **given) as loader:
            batches = list(islice(loader, 2))
            told = samples_of(config, loader.order, rank, 2, 3)
            assert [s["position"] for s in told] == [p for b in batches for p in b.position.flatten().tolist()]
            assert [s["n_cycles"] for s in told] == [len(b.cycles) for b in batches for _ in range(2)]
            assert [s["chain_id"] for s in told] == [loader.order.chain_at(s["position"]) for s in told]


def test_secrets_are_hidden() -> None:
    told = without_secrets(
        {"AWS_SECRET_ACCESS_KEY": "x", "hf_token": "y", "MLFLOW_TRACKING_URI": "http://me:z@host:5000/a", "HOME": "/root"}
    )
    assert told == {
        "AWS_SECRET_ACCESS_KEY": HIDDEN,
        "hf_token": HIDDEN,
        "MLFLOW_TRACKING_URI": f"http://{HIDDEN}@host:5000/a",
        "HOME": "/root",
    }


def test_an_error_is_told_with_the_folder_that_explains_it(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "hunter2")
    run = RunDir(Path(config.run.dir))
    run.root.mkdir()
    run.journal.write_text("".join(f'{{"line": {i}}}\n' for i in range(200)))
    with Crash(run, config, place(1)), pytest.raises(FoldlineError, match="too many; crash bundle: ") as raised:
        fail_in(Crash(run, config, place(0)), 7)
    (folder,) = run.crash.glob("*_rank_0")
    assert str(folder) in str(raised.value)
    mine, theirs = ((folder / f"rank_{rank:05d}.txt").read_text() for rank in range(2))
    assert "step 7" in mine
    assert "FoldlineError: too many" in mine
    assert "test_crash.py" in theirs  # its stacks
    assert "asked by another rank" in theirs
    assert (folder / "journal.jsonl").read_text().splitlines() == [f'{{"line": {i}}}' for i in range(150, 200)]
    everything = "".join(path.read_text() for path in folder.iterdir())
    assert "hunter2" not in everything
    about = json.loads((folder / "environment.json").read_text())
    assert about["versions"]["all"]["torch"].startswith("2.")
    assert about["variables"]["SOME_PASSWORD"] == HIDDEN
    assert json.loads((folder / "config.json").read_text())["run"]["micro_batch"] == 2


def test_a_mistake_before_the_first_step_leaves_no_bundle_but_a_bug_does(config: RunConfig) -> None:
    run = RunDir(Path(config.run.dir))
    with pytest.raises(FoldlineError, match=r"^wrong file$"), Crash(run, config, place(0)):
        raise FoldlineError("wrong file")
    assert list(run.crash.glob("*_rank_*")) == []
    with pytest.raises(ZeroDivisionError) as raised, Crash(run, config, RunDirOne):
        raise ZeroDivisionError("a bug")
    (folder,) = run.crash.glob("*_rank_0")
    assert raised.value.__notes__ == [f"crash bundle: {folder}"]


def test_a_bundle_that_cannot_be_written_is_told_once(config: RunConfig) -> None:
    run = RunDir(Path(config.run.dir))
    run.root.mkdir()
    run.crash.write_text("a file where the folder should be")
    with pytest.raises(FoldlineError) as raised:
        fail_in(Crash(run, config, place(0)), 7)
    assert str(raised.value).count("no crash bundle: ") == 1


RunDirOne = RankInfo(0, 0, 1, 1, 0, "alone", "127.0.0.1", 1, "single")


def test_many_ranks_that_fail_at_once_make_one_folder(config: RunConfig) -> None:
    run = RunDir(Path(config.run.dir))
    forget(run)
    made: list[IncidentFolder] = []
    together = threading.Barrier(16)

    def fail(rank: int) -> None:
        together.wait()
        made.append(IncidentFolder.open(run, f"rank_{rank}"))

    threads = [threading.Thread(target=fail, args=(rank,)) for rank in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({incident.folder for incident in made}) == 1
    assert sum(incident.mine for incident in made) == 1


def test_the_newest_few_bundles_stay(config: RunConfig) -> None:
    run = RunDir(Path(config.run.dir))
    for second in range(KEPT + 3):
        (run.crash / f"20200101T00000{second}_rank_0").mkdir(parents=True)
    IncidentFolder.open(run, "rank_3").write_about("{}")
    kept = sorted(path.name for path in run.crash.iterdir() if path.is_dir())
    assert len(kept) == KEPT
    assert kept[-1].endswith("_rank_3")
    assert "20200101T000000_rank_0" not in kept


def test_the_launcher_names_a_ranks_bundle_or_gathers_what_killed_ranks_left(config: RunConfig) -> None:
    run = RunDir(Path(config.run.dir))
    assert bundle_from_outside(run, 0.0, "the ranks ended with code 137") is None  # they had not begun
    run.ranks.mkdir(parents=True)
    run.config.write_text('{"uri": "http://me:hunter2@host"}')
    (run.ranks / "rank_00001.json").write_text('{"host": "h2", "step": 7, "doing": "training"}\n')
    (run.ranks / "fatal_00001.txt").write_text("Fatal Python error: Segmentation fault\n")
    made = bundle_from_outside(run, time.time() - 1.0, "the ranks ended with code 137")
    assert made is not None
    assert "code 137" in (made / "launcher.txt").read_text()
    assert json.loads((made / "ranks.jsonl").read_text()) == {"host": "h2", "step": 7, "doing": "training"}
    assert "Segmentation fault" in (made / "fatal_00001.txt").read_text()
    assert "hunter2" not in (made / "config.json").read_text()
    forget(run)
    ranks_own = IncidentFolder.open(run, "rank_1").folder
    assert bundle_from_outside(run, time.time() - 60.0, "") == ranks_own


def test_a_signal_writes_the_stacks_of_a_rank_without_its_interpreter(config: RunConfig) -> None:
    run = RunDir(Path(config.run.dir))
    with Crash(run, config, place(0)):
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(0.2)
        assert "test_crash.py" in (run.ranks / "stacks_00000.txt").read_text()


FAILS = """
import os, sys, threading
from foldline.trainer import advance
plain = advance.Stepper.advance
def slow_name(): threading.Event().wait()
def fail(self, step, ema):
    if step == 3 and os.environ["OMPI_COMM_WORLD_RANK"] == "1":
        WAY
    return plain(self, step, ema)
advance.Stepper.advance = fail
from foldline.cli import main
sys.exit(main(["train", *sys.argv[1:]]))
"""


def crash_run(tmp_path: Path, store: Path, way: str) -> tuple[str, Path]:
    """Standard error of a training of two ranks of which rank 1 fails in step 3, and the bundle."""
    config = write_config(tmp_path, store)
    program = [sys.executable, "-c", FAILS.replace("WAY", way), "--config", str(config), "--set=run.collective_timeout=24"]
    done = subprocess.run(mpirun_command(2, program), capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode != 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "run" / "crash").glob("*_rank_*")
    assert str(folder) in done.stderr
    return done.stderr, folder


def test_an_exception_of_one_rank_leaves_the_stacks_of_both(tmp_path: Path, store: Path) -> None:
    _, folder = crash_run(tmp_path, store, "raise RuntimeError('of rank 1')")
    assert folder.name.endswith("_rank_1")
    mine, theirs = ((folder / f"rank_{rank:05d}.txt").read_text() for rank in (1, 0))
    assert "RuntimeError: of rank 1" in mine
    assert "step 3" in theirs
    assert "in _agree" in theirs or "in backward" in theirs or "all_reduce" in theirs  # it waits for rank 1
    positions = [
        json.loads(line.partition(": ")[2])["position"] for text in (theirs, mine) for line in text.splitlines() if "position" in line
    ]
    assert positions == [4, 5]
    assert len((folder / "ranks.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_rank_that_hangs_with_its_interpreter_is_asked_by_a_signal(tmp_path: Path, store: Path) -> None:
    way = "import ctypes; ctypes.PyDLL(None).sleep(1000)"  # holds the interpreter's lock
    _, folder = crash_run(tmp_path, store, way)
    assert folder.name.endswith("_rank_0")
    assert "in fail" in (folder / "rank_00001.txt").read_text()
