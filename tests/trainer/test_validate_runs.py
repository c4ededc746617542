"""Validation in whole runs: by the training ranks and by a side job beside them; best checkpoints, early stop, given weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import biotite.structure as bs
import pytest
from biotite.structure.io.pdb import PDBFile
from mlflow import MlflowClient
from safetensors import safe_open
from tmtools import tm_align

from foldline.cli import main
from foldline.cluster.launch import mpirun_command
from foldline.trainer.journal import read_after, read_journal, side_journal

from .runs import SECONDS, write_config

REST = """
[data]
store = "STORE"
train = ["1ajj_A", "1bxy_A", "1gcc_A"]
validation = ["1ubq_A", "1tif_A"]

[validate]
every = 2
trained_chains = 1
recycles = 0

[tracking]
mlflow = false

[run]
dir = "RUN"
steps = 12
checkpoint_every = 100
keep_last = 1
threads = 1
device = "cpu"
"""


def program(command: str, *arguments: str, overrides: Sequence[str] = ()) -> list[str]:
    return [sys.executable, "-m", "foldline.cli", command, *arguments, *(f"--set={o}" for o in overrides)]


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def early(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Two ranks whose weights barely move: the first validation is the last gain."""
    folder = tmp_path_factory.mktemp("early")
    config = write_config(folder, store, REST)
    overrides = ["optim.lr=1e-9", "validate.patience=2", "validate.min_delta=0.5", "run.keep_best=2"]
    return folder, run(mpirun_command(2, program("train", "--config", str(config), overrides=overrides)))


def steps_of(folder: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (folder / "run" / "checkpoints").glob("step_*"))


def test_a_run_without_gain_ends_early_and_keeps_its_best(early: tuple[Path, str]) -> None:
    folder, printed = early
    assert "validate/validation/lddt_ca has not improved by more than 0.5 in 2 validations since step 2" in printed
    history = [r for r in read_journal(folder / "run" / "metrics.jsonl") if r.kind == "validate"]
    assert [r.step for r in history] == [0, 2, 4, 6]
    values = {r.step: r.metrics["validate/validation/lddt_ca"] for r in history if r.step}
    best = sorted(values, key=lambda step: (-values[step], step))[:2]
    assert steps_of(folder) == sorted({*best, 6})
    with safe_open(folder / "run" / "weights" / "best.safetensors", framework="pt") as file:
        assert file.metadata()["step"] == str(best[0])


@pytest.mark.slow
def test_a_resumed_run_comes_to_the_same_verdict(early: tuple[Path, str]) -> None:
    folder, _ = early
    again = ["optim.lr=1e-9", "validate.patience=2", "validate.min_delta=0.5", "run.keep_best=2"]
    command = program("train", "--config", str(folder / "config.toml"), "--resume", overrides=again)
    printed = run(mpirun_command(2, command))
    assert "the run ends early at step 6" in printed
    assert "step  7" not in printed
    more = ["optim.lr=1e-9", "validate.patience=4", "validate.min_delta=0.5", "validate.recycles=1"]
    printed = run(mpirun_command(2, program("train", "--config", str(folder / "config.toml"), "--resume", overrides=more)))
    assert "the validation set is another one than before" in printed
    assert "all 12 steps" not in printed
    assert steps_of(folder)[-1] == 12  # results of another set do not count, so 8 is a first one and 10 and 12 are two without gain


def test_the_files_agree_with_programs_of_others(early: tuple[Path, str]) -> None:
    """Predictions of a run, as its files hold them (Å to three digits), scored by biotite and TM-align."""
    root = early[0] / "run"
    summary = json.loads((root / "summary.json").read_text())["after"]
    for chain, scores in summary["chains"].items():
        atoms = PDBFile.read(root / "structures" / f"{chain}.pdb").get_structure(model=1)
        predicted, true = atoms[atoms.chain_id == "A"], atoms[atoms.chain_id == "B"]
        predicted = predicted[[number in set(true.res_id) for number in predicted.res_id]]
        assert scores["lddt_ca"] == pytest.approx(bs.lddt(true, predicted), abs=2e-3)
        assert scores["rmsd_ca"] == pytest.approx(float(bs.rmsd(true, bs.superimpose(true, predicted)[0])), abs=2e-3)
        sequence = "A" * len(true)
        aligned = tm_align(predicted.coord.astype(float), true.coord.astype(float), sequence, sequence, alignment=[sequence, sequence])
        assert scores["tm"] >= aligned.tm_norm_chain2 - 2e-3


def test_reports_hold_every_measure_with_its_interval(early: tuple[Path, str]) -> None:
    root = early[0] / "run"
    report = json.loads((root / "validation" / "step_00000004.json").read_text())
    found = report["splits"]["validation"]
    assert found["chains"] == 2
    assert found["measures"].keys() >= {"lddt_ca", "lddt_all", "tm", "gdt_ts", "gdt_ha", "drmsd_ca", "clashes", "contacts_24"}
    assert all(v["low"] <= v["mean"] <= v["high"] for v in found["measures"].values() if v["chains"] > 1)
    assert found["calibration"].keys() == {"plddt", "pae"}
    assert [part["from"] for part in found["by_length"]] == [1]
    table = (root / "validation" / "step_00000004.csv").read_text().splitlines()
    assert len(table) == 4
    assert table[0].startswith("chain,split,residues,lddt_ca,lddt_all,tm,")
    assert (root / "plots" / "calibration.png").stat().st_size > 5000


@pytest.fixture(scope="module")
def beside(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A training that never validates and its side job, started together; what each printed."""
    folder = tmp_path_factory.mktemp("beside")
    config = write_config(folder, store, REST)
    overrides = ["validate.mode=async", "run.checkpoint_every=3", "run.keep_last=9", "run.keep_best=1", "tracking.mlflow=true"]
    watch = program("validate", "--run", str(folder / "run"), "--watch", "--poll", "0.2", "--silence", "120")
    side = subprocess.Popen(watch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        trained = run(program("train", "--config", str(config), overrides=overrides))
        printed, errors = side.communicate(timeout=SECONDS)
    finally:
        side.kill()
    assert side.returncode == 0, printed + errors
    return folder, trained, printed


def test_a_side_job_validates_every_checkpoint_and_ends_with_the_run(beside: tuple[Path, str, str]) -> None:
    folder, trained, printed = beside
    root = folder / "run"
    assert "validation at step" not in trained
    assert [line.split(":")[0] for line in printed.splitlines() if line.startswith("validation at")] == [
        f"validation at step {step}" for step in (3, 6, 9, 12)
    ]
    assert "the run is finished; all its checkpoints are validated" in printed
    assert not [r for r in read_after(root / "metrics.jsonl", 0).records if r.kind == "validate"]
    assert [r.step for r in read_after(side_journal(root / "metrics.jsonl"), 0).records] == [3, 6, 9, 12]
    history = [r for r in read_journal(root / "metrics.jsonl") if r.kind == "validate"]
    assert json.loads((root / "summary.json").read_text())["after"]["step"] == 12
    best = max(history, key=lambda r: r.metrics["validate/validation/lddt_ca"]).step
    with safe_open(root / "weights" / "best.safetensors", framework="pt") as file:
        assert file.metadata()["step"] == str(best)


def test_mlflow_has_what_the_side_job_found(beside: tuple[Path, str, str]) -> None:
    client = MlflowClient(f"sqlite:///{beside[0] / 'run' / 'mlflow.db'}")
    (found,) = client.search_runs(["1"])
    sent = client.get_metric_history(found.info.run_id, "validate/validation/tm")
    assert sorted(metric.step for metric in sent) == [3, 6, 9, 12]


def test_the_same_weights_give_the_same_numbers(beside: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """--weights, and a second look at a checkpoint, find what the side job found."""
    root = beside[0] / "run"
    written = json.loads((root / "validation" / "step_00000012.json").read_text())
    out = beside[0] / "out"
    given = ["validate", "--weights", str(root / "weights" / "ema.safetensors"), "--config", str(beside[0] / "config.toml")]
    assert main([*given, "--out", str(out)]) == 0
    assert "validation: 2 chains" in capsys.readouterr().out
    again = json.loads((out / "validation.json").read_text())
    assert {k: again[k] for k in ("set", "weights", "chains", "splits")} == {k: written[k] for k in ("set", "weights", "chains", "splits")}
    assert main([*given, "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["validate", "--run", str(root)]) == 0  # nothing is left to do
    assert "validation at step" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "{root}", "--checkpoint", "5"], "has no checkpoint of that step; it has 3, 6, 9, 12"),
        (["--run", "{root}", "--out", "x"], "--config, --set and --out go with --weights"),
        (["--weights", "w"], "--weights needs --config"),
        (["--run", "{root}/nowhere"], "holds no run"),
        (["--run", "{root}", "--poll", "0"], "must be above 0 seconds"),
    ],
)
def test_bad_input_is_told(beside: tuple[Path, str, str], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", *(a.format(root=beside[0] / "run") for a in arguments)]) == 2
    assert message in capsys.readouterr().err
