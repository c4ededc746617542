"""Whole runs on real chains: two MPI ranks under ZeRO-2, stopped by a signal and resumed, against the same run uninterrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file

from foldline.cli import main
from foldline.trainer.journal import Record, read_journal
from foldline.trainer.loop import STOPPED

from . import runs
from .runs import ROOT, SECONDS, command, untimed

__all__ = ["ROOT", "command", "write_config"]
STEPS = 8
REST = """
[data]
store = "STORE"
validation = ["1ubq_A"]

[validate]
every = 4
trained_chains = 2
recycles = 1
pictures = 3

[run]
dir = "RUN"
steps = 8
checkpoint_every = 3
keep_last = 2
log_every = 2
threads = 1
device = "cpu"
"""


@dataclass(frozen=True)
class Run:
    """A run directory and the command line's answers."""

    root: Path
    config: Path
    printed: str

    def history(self, kind: str) -> list[Record]:
        return [record for record in read_journal(self.root / "metrics.jsonl") if record.kind == kind]


def write_config(folder: Path, store: Path) -> Path:
    return runs.write_config(folder, store, REST)


@pytest.fixture(scope="module")
def whole(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The uninterrupted run, tracked in MLflow."""
    folder = tmp_path_factory.mktemp("whole")
    config = write_config(folder, store)
    done = subprocess.run(command(config), capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Run(folder / "run", config, done.stdout)


@pytest.fixture(scope="module")
def stopped(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that would be long, stopped by SIGTERM to its second rank as soon as a step is recorded."""
    folder = tmp_path_factory.mktemp("stopped")
    config, run = write_config(folder, store), folder / "run"
    job = subprocess.Popen(
        command(config, overrides=["run.steps=1000", "tracking.mlflow=false"]), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + SECONDS
    while not (run / "metrics.jsonl").exists() or '"train"' not in (run / "metrics.jsonl").read_text():
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    ranks = [p for p in psutil.Process(job.pid).children(recursive=True) if "foldline.cli" in p.cmdline()]
    os.kill(next(p.pid for p in ranks if p.environ()["OMPI_COMM_WORLD_RANK"] == "1"), signal.SIGTERM)
    printed, errors = job.communicate(timeout=SECONDS)
    assert job.returncode == STOPPED, printed + errors
    return Run(run, config, printed)


def test_a_run_leaves_what_its_readers_expect(whole: Run) -> None:
    assert [r.step for r in whole.history("train")] == list(range(1, STEPS + 1))
    assert [r.step for r in whole.history("validate")] == [0, 4, 8]
    metrics = whole.history("train")[2].metrics
    assert {"loss/total", "loss/fape", "loss/pae", "train/lddt_ca", "optim/grad_norm", "speed/data_wait_share"} <= metrics.keys()
    assert metrics["optim/lr"] == pytest.approx(1e-2 * 6 / 10)
    assert metrics["loss/total"] == pytest.approx(
        sum(v for k, v in metrics.items() if k.startswith("loss/") and k != "loss/total"), rel=1e-4
    )
    assert [p.name for p in sorted((whole.root / "checkpoints").iterdir())] == ["step_00000006", "step_00000008"]
    newest = whole.root / "checkpoints" / "step_00000008"
    assert (whole.root / "weights" / "ema.safetensors").read_bytes() == (newest / "ema.safetensors").read_bytes()
    assert json.loads((newest / "manifest.json").read_text())["samples"] == 16
    config = json.loads((whole.root / "config.json").read_text())
    assert (config["model"]["c_m"], config["features"]["crop_size"]) == (8, 16)
    assert json.loads((whole.root / "deepspeed.json").read_text())["zero_optimization"]["stage"] == 2
    summary = json.loads((whole.root / "summary.json").read_text())
    assert (summary["before"]["step"], summary["after"]["step"]) == (0, 8)
    assert {c["split"] for c in summary["after"]["chains"].values()} == {"trained", "validation"}
    assert summary["after"]["chains"]["1ubq_A"]["residues"] == 76
    assert len(list((whole.root / "plots").glob("distances_*.png"))) == 3
    assert (whole.root / "plots" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_printed_lines_are_plain_and_told_once(whole: Run) -> None:
    assert "\x1b" not in whole.printed
    assert whole.printed.count("step 8/8  loss") == 1
    assert whole.printed.count("validation at step 0:") == 1
    assert "rank 1/2 local 1/2" in whole.printed
    assert "DeepSpeed" not in whole.printed


def test_mlflow_has_the_journal(whole: Run) -> None:
    client = MlflowClient(f"sqlite:///{whole.root / 'mlflow.db'}")
    (run,) = client.search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert run.data.params["deepspeed.zero_stage"] == "2"
    sent = sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss/fape"))
    assert sent == [(r.step, r.metrics["loss/fape"]) for r in whole.history("train")]
    names = {f.path for f in client.list_artifacts(run.info.run_id)}
    folders = {"plots", "structures", "tables", "validation"}
    assert names == {"config.json", "deepspeed.json", "environment.json", "summary.json", "structures.html"} | folders


def test_stop_and_resume_equal_the_uninterrupted_run_bit_for_bit(whole: Run, stopped: Run) -> None:
    step = stopped.history("train")[-1].step
    assert 1 <= step < STEPS, f"the signal took {step} steps to arrive"
    assert f"stopped by a signal after step {step}" in stopped.printed
    again = command(stopped.config, "--resume", overrides=[f"run.steps={STEPS}", "tracking.mlflow=false"])
    done = subprocess.run(again, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on from" in done.stdout
    for one, other in zip(whole.history("train"), stopped.history("train"), strict=True):
        assert one.step == other.step
        assert untimed(one) == untimed(other)
    assert whole.history("validate")[-1].metrics == stopped.history("validate")[-1].metrics
    for name in ("model", "ema"):
        mine, theirs = (load_file(r.root / "checkpoints" / f"step_{STEPS:08d}" / f"{name}.safetensors") for r in (whole, stopped))
        assert mine.keys() == theirs.keys()
        assert [key for key in mine if not mine[key].equal(theirs[key])] == []


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(store: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, store)
    overrides = [
        "optim.lr=1e30",
        "optim.warmup_samples=0",
        "deepspeed.zero_stage=0",
        "tracking.mlflow=false",
        "run.checkpoint_every=1",
        "run.skip_budget=0",
    ]
    done = subprocess.run(command(config, overrides=overrides, ranks=1), capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "foldline: step 2: " in done.stderr
    assert "not finite" in done.stderr or "norm is nan" in done.stderr
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_00000001"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "run.stepz=1"], "unknown key 'run.stepz'; did you mean 'steps'?"),
        ([], "already holds a run; continue it with --resume, or give another run.dir"),
        (["--resume", "--set", "run.dir=/nowhere"], "--resume: /nowhere holds no checkpoint"),
        (["--resume", "--set", "optim.lr=0.5"], "was started with other settings: optim.lr (was 0.01, is 0.5)"),
        (["--set", "data.store=/no/store"], "data.store = '/no/store' is not there; make it: foldline ingest"),
        (["--set", 'data.train=["9zzz_A"]'], "data.train: the store has no chain '9zzz_A'"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(whole: Run, more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(str(p) for p in whole.root.rglob("*"))
    assert main(["train", "--config", str(whole.config), *more]) == 2
    assert message in capsys.readouterr().err
    assert sorted(str(p) for p in whole.root.rglob("*")) == before
