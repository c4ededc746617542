"""The fault suite's own checks: each holds on a good run and is seen to fail on a spoiled one; plans follow from the seed alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from foldline.cli import main
from foldline.data_store.config import DataConfig
from foldline.data_store.ingest import ingest
from foldline.data_store.store import Store
from foldline.trainer.chaos import checks
from foldline.trainer.chaos.blow import Blow, Outcome, Pace, Scene, telling
from foldline.trainer.chaos.blows_disk import chunks
from foldline.trainer.chaos.blows_process import AllKilled, RankKilled, StopSignal
from foldline.trainer.chaos.clock import Clock, absent
from foldline.trainer.chaos.command import KINDS
from foldline.trainer.chaos.driver import Driver
from foldline.trainer.chaos.job import MARK, Job
from foldline.trainer.chaos.plan import Fault, draw, window
from foldline.trainer.config import RunConfig, RunSection, to_json
from foldline.trainer.journal import Journal
from foldline.trainer.rundir import RunDir
from foldline.trainer.tracking.feed import Feed, open_client

ROOT = Path(__file__).resolve().parents[2]
STEPS = 12
TRAITS = [kind.traits for kind in KINDS.values()]


def make_run(root: Path, resumed: bool) -> RunDir:
    """A run directory as a training leaves it; ``resumed``: killed in step 8, gone on from step 5."""
    run = RunDir(root)
    journal = Journal(run.journal)
    for step in [*range(1, 8), *range(6, STEPS + 1)] if resumed else range(1, STEPS + 1):
        if resumed and step == 6 and journal.path.read_text().count('"step": 7,'):
            journal.append("resume", 5, {})
        # The time is what differs between runs.
        journal.append("train", step, {"loss/total": 1 / step, "loss/pae": float("nan"), "time/step": time.monotonic()})
    journal.close()
    config = RunConfig(DataConfig(store="s"), RunSection(dir=str(root), steps=STEPS))
    run.config.write_text(to_json(config))
    run.state.write_text(json.dumps({"state": "finished", "time": time.time(), "host": "h", "pid": 1}))
    folder = run.checkpoints / f"step_{STEPS:08d}"
    folder.mkdir(parents=True)
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(4)}
    for name in ("model", "ema", "rank_00000", "rank_00001"):
        save_file(tensors, folder / f"{name}.safetensors")
    run.weights.parent.mkdir()
    shutil.copyfile(folder / "ema.safetensors", run.weights)
    return run


@pytest.fixture
def runs(tmp_path: Path) -> tuple[RunDir, RunDir]:
    return make_run(tmp_path / "whole", False), make_run(tmp_path / "resumed", True)


@pytest.mark.parametrize("name", ["model", "ema", "rank_00001"])
def test_a_bit_of_the_weights_is_seen(runs: tuple[RunDir, RunDir], name: str) -> None:
    assert checks.weights(*runs, STEPS, 2) == []
    path = runs[1].checkpoints / f"step_{STEPS:08d}" / f"{name}.safetensors"
    tensors = load_file(path)
    tensors["b"][2] = -0.0  # equal to 0.0, but for a bit
    save_file(tensors, path)
    (problem,) = checks.weights(*runs, STEPS, 2)
    assert problem == f"1 tensors of {name}.safetensors with other bits: b"


def test_absent_and_other_tensors_are_seen(runs: tuple[RunDir, RunDir]) -> None:
    folder = runs[1].checkpoints / f"step_{STEPS:08d}"
    save_file({"a": torch.zeros(1)}, folder / "ema.safetensors")
    (folder / "model.safetensors").unlink()
    assert checks.weights(*runs, STEPS, 2) == [f"{folder / 'model.safetensors'} not there", "ema.safetensors holds other tensors"]
    save_file({"a": torch.zeros(1)}, runs[1].weights)
    assert "weights/ema.safetensors holds other tensors" in checks.weights(*runs, STEPS, 2)


def edit(run: RunDir, change: object) -> None:
    lines = run.journal.read_text().splitlines(keepends=True)
    run.journal.write_text("".join(change(lines)))


def test_a_missing_a_doubled_and_another_line_of_the_journal_are_seen(runs: tuple[RunDir, RunDir]) -> None:
    assert checks.journal(*runs, STEPS) == []
    whole = runs[1].journal.read_text()
    edit(runs[1], lambda lines: lines[:-2] + lines[-1:])
    assert checks.journal(*runs, STEPS) == [f"1 steps without a line: {STEPS - 1}"]
    runs[1].journal.write_text(whole)
    edit(runs[1], lambda lines: [*lines, lines[-1]])
    assert checks.journal(*runs, STEPS) == [f"1 steps with several lines: {STEPS}"]
    runs[1].journal.write_text(whole.replace('"loss/total": 0.1,', '"loss/total": 0.10000000000000002,'))
    assert checks.journal(*runs, STEPS) == ["1 records with other numbers: train 10 (loss/total)"]
    runs[1].journal.write_text(whole.replace('{"kind": "resume"', '{"kind": "noise"'))  # without it steps 6 and 7 count twice
    assert "2 steps with several lines: 6, 7" in checks.journal(*runs, STEPS)


def test_a_point_that_mlflow_lacks_and_one_too_many_are_seen(
    runs: tuple[RunDir, RunDir], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow puts the files of a database's runs
    run, uri = runs[1], f"sqlite:///{tmp_path / 'server.db'}"
    assert checks.tracked(run, uri) == [f"no run at {uri}"]
    feed = Feed(run, uri)
    feed.send()
    assert checks.tracked(run, uri) == []
    journal = Journal(run.journal)
    journal.append("train", STEPS + 1, {"loss/total": 0.5})
    journal.close()
    assert checks.tracked(run, uri) == [f"1 points of the journal that MLflow lacks: loss/total of step {STEPS + 1}"]
    feed.send()
    open_client(uri).log_metric(feed.run_id, "loss/total", 7.0, step=3)
    assert checks.tracked(run, uri) == ["1 points in MLflow that no journal has: loss/total of step 3"]
    open_client(uri).set_terminated(feed.run_id, "FAILED")
    assert "the run's status is FAILED instead of FINISHED" in checks.tracked(run, uri)


def test_an_orphan_is_seen() -> None:
    """A grandchild whose parents are gone, as a rank that outlives its launcher."""
    program = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], stdout=-3, stderr=-3).pid)"
    )
    environment = os.environ | {MARK: "orphan test"}
    pid = int(subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True).stdout)
    try:
        (problem,) = checks.processes("orphan test", 0.2)
        assert problem.startswith(f"1 processes that outlived their job: {pid} (")
    finally:
        os.kill(pid, 9)
    assert checks.processes("orphan test", 10.0) == []


def test_left_overs_and_tracebacks_are_seen(runs: tuple[RunDir, RunDir], tmp_path: Path) -> None:
    run = runs[1]
    run.tracking_lock.touch()
    assert checks.litter(run) == []
    (run.checkpoints / ".partial_00000008").mkdir()
    (run.root / "state.json.partial").touch()
    assert checks.litter(run) == ["2 left-overs: checkpoints/.partial_00000008, state.json.partial"]
    log = tmp_path / "start.log"
    log.write_text("foldline: no room\n")
    assert checks.messages([log]) == []
    log.write_text("Traceback (most recent call last):\n  File x\n")
    assert checks.messages([log]) == [f"1 tracebacks in: {log}"]


def test_a_plan_follows_from_its_seed_and_has_every_kind() -> None:
    config = RunConfig(DataConfig(store="s"), RunSection(dir="r", steps=60, checkpoint_every=4))
    assert window(config) == (5, 51)
    plans = [draw(seed, 20, TRAITS, window(config)) for seed in range(200)]
    assert plans == [draw(seed, 20, TRAITS, window(config)) for seed in range(200)]
    assert len(set(plans)) == 200
    ends = {traits.name: traits.ends for traits in TRAITS}
    early = {traits.name: traits.early for traits in TRAITS}
    phases = {traits.name: traits.phases for traits in TRAITS}
    for plan in plans:
        counts = Counter(fault.kind for fault in plan)
        assert counts.keys() == KINDS.keys()
        assert max(counts.values()) - min(counts.values()) <= 1
        assert [fault.step for fault in plan] == sorted(fault.step for fault in plan)
        assert all(fault.phase in phases[fault.kind] for fault in plan)
        first, *rest = plan
        assert early[first.kind]
        assert 1 <= first.step <= 4
        assert all(5 <= fault.step <= 51 for fault in rest)
        for before, fault in zip(plan, rest, strict=False):
            assert fault.phase != "starting" or ends[before.kind]
    assert {fault.phase for plan in plans for fault in plan} == {"training", "saving", "starting"}
    assert {plan[0].phase for plan in plans} == {"training", "saving", "starting"}
    late = [traits for traits in TRAITS if not traits.early]
    assert all(fault.step >= 5 for seed in range(20) for fault in draw(seed, 20, late, window(config)))


def test_every_chunk_that_a_flip_may_hit_is_under_a_checksum(tmp_path: Path) -> None:
    """First, last and middle byte of each: the chain cannot be read any more."""
    ingest(ROOT / "examples" / "demo", tmp_path / "store")
    (part,) = (tmp_path / "store" / "parts").glob("*.zip")
    whole = part.read_bytes()
    spans = chunks(part)
    assert len(spans) == 5
    for name, start, size in spans:
        for at in (start, start + size // 2, start + size - 1):
            part.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
            with pytest.raises(Exception, match="foldline store verify"):
                Store.open(tmp_path / "store").record("1ubq_A")
            assert name
    part.write_bytes(whole)
    assert Store.open(tmp_path / "store").record("1ubq_A").sequence


CLOCKS = """
import datetime, sys, threading, time
wall, steady = time.time(), time.monotonic()
print("ready", flush=True)
sys.stdin.readline()
begin = time.monotonic()
threading.Event().wait(0.3)
threading.Semaphore(0).acquire(timeout=0.3)
waited = time.monotonic() - begin
print(time.time() - wall, time.monotonic() - steady, datetime.datetime.now().timestamp() - wall, waited)
"""


@pytest.mark.skipif(absent() != "", reason=absent())
@pytest.mark.parametrize("seconds", [7200, -259200])
def test_the_moved_clock_moves_the_wall_clock_alone(tmp_path: Path, seconds: int) -> None:
    clock = Clock(tmp_path)
    program = subprocess.Popen(
        [sys.executable, "-c", CLOCKS], env=os.environ | clock.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert program.stdout
    assert program.stdout.readline() == "ready\n"
    clock.jump(seconds)
    printed, _ = program.communicate("go\n", timeout=60)
    wall, steady, date, waited = map(float, printed.split())
    assert 0 <= steady < 60
    assert 0.59 < waited < 60
    assert abs(wall - steady - seconds) < 2
    assert abs(date - steady - seconds) < 2


def drive(folder: Path, arguments: list[str], blows: list[Blow], resumed: list[bool] | None = None) -> Driver:
    """A driver over a command that is no training and ends by itself; ``resumed`` hears of each start whether it was to go on."""
    run = RunDir(folder / "run")
    config = RunConfig(DataConfig(store="s"), RunSection(dir=str(run.root), steps=STEPS, collective_timeout=1.0))
    scene = Scene(config, run, folder, Pace(), "driver test")

    def start(number: int, resume: bool) -> Job:
        if resumed is not None:
            resumed.append(resume)
        return Job(arguments, folder / f"{number}.log", run, "driver test", {})

    driver = Driver(scene, blows, start, lambda _: None)
    driver.run()
    return driver


@pytest.mark.parametrize("saved", [True, False])
def test_a_job_without_a_checkpoint_begins_anew_beside_what_there_was(tmp_path: Path, saved: bool) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / ("step_00000003" if saved else ".partial_00000003")
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").touch()
    resumed: list[bool] = []
    driver = drive(tmp_path, ["--version"], [AllKilled(Fault(1, "all killed", 1, "starting", 0.0, 0.5, 0.5))], resumed)
    assert driver.codes == [137, 0]
    assert resumed == [False, saved]
    assert (tmp_path / "run.lost_1" / "checkpoints" / checkpoint.name).exists() == (not saved)
    assert checkpoint.exists() == saved


def test_an_end_that_asks_for_a_person_is_no_end_to_go_on_from(tmp_path: Path) -> None:
    driver = drive(tmp_path, ["train", "--config", "absent.toml"], [])
    assert driver.codes == [2]
    first, second = driver.problems
    assert first.startswith("start 1 ended with code 2, though nothing was done to it")
    assert second.startswith("start 1 asks for a person (code 2), who had nothing to mend")


def test_a_fault_that_found_no_moment_is_told(tmp_path: Path) -> None:
    driver = drive(tmp_path, ["--version"], [RankKilled(Fault(3, "rank killed", 5, "training", 0.5, 0.5, 0.5))])
    assert driver.codes == [0]
    assert driver.problems == ["fault 3 (rank killed) found no moment to come"]


@pytest.mark.parametrize(
    ("output", "code", "lost", "problems"),
    [
        ("foldline: stopped by a signal after step 9; go on with --resume\n", 75, 0, []),
        ("stopped by a signal after step 9; go on with --resume\n", 69, 0, ["exit code 69, not 75"]),
        ("stopped by a signal after step 9; go on with --resume\n", 75, 2, ["2 steps were lost, though there was time to save"]),
        ("bye\n", 75, 0, ["no message says that it was stopped by a signal"]),
    ],
)
def test_a_fault_is_judged_by_message_code_and_lost_steps(output: str, code: int, lost: int, problems: list[str]) -> None:
    fault = Fault(1, "stop signal", 9, "training", 0.5, 0.5, 0.5)
    outcome = Outcome(fault, 9, "", 1, 0.0, code=code, output=output, reached=9 + lost, resumed=9)
    assert StopSignal(fault).judge(outcome) == problems


def test_a_message_is_found_in_mpiruns_frame() -> None:
    frame = "-" * 74
    told = "prterun noticed that process rank 0 with PID 7 on node vm exited on\nsignal 9 (Killed)."
    output = f"step 1\n{frame}\n{told}\n{frame}\nfoldline: end\n"
    assert telling(output, "exited on signal 9") == told.replace("\n", " ")
    assert telling(output, "end") == "end"
    assert telling(output, "rank 0", "step 1") == ""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--faults", "0"], "--faults 0"),
        (["--ranks", "1"], "--ranks 1"),
        (["--set", "run.steps=13"], "give at least 14 steps"),
        (["--set", "run.threads=0"], "run.threads = 0"),
        (["--set", 'run.device="auto"'], "run.deterministic"),
        (["--only", "rank kiled"], "rank killed"),
    ],
)
def test_what_cannot_be_compared_is_refused(more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["chaos", "--config", str(ROOT / "examples" / "chaos.toml"), "--out", str(tmp_path / "out")]
    assert main([*words, *(more if "--faults" in more else ["--faults", "9", *more])]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
