"""The whole line at a small size, through the command line: real proteins in, a folded structure out."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXPORT = ROOT / "examples" / "demo_export.toml"
DEMO = ROOT / "examples" / "demo"
HELD_OUT = DEMO / "held_out"
SMALL = (
    "run.steps=4",
    "run.checkpoint_every=2",
    "run.log_every=1",
    "validate.every=0",
    "validate.recycles=1",
    "validate.trained_chains=2",
    "features.crop_size=32",
    "features.max_msa_clusters=8",
    "features.max_extra_msa=8",
    "model.evoformer.blocks=1",
    "model.structure.iterations=2",
)


def foldline(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "foldline"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False, env=os.environ | environment)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``store``, ``run``, ``bundle`` and ``folds``, each made by its command."""
    root = tmp_path_factory.mktemp("line")
    quick = ["--set=export.bench.memory=false", "--set=export.bench.compile=never"]
    where = [f"--set=run.dir={root}/run", f"--set=data.store={root}/store", *(f"--set={value}" for value in SMALL)]
    for arguments in (
        ["ingest", str(DEMO), "--store", f"{root}/store"],
        ["train", "--config", str(ROOT / "examples" / "demo.toml"), *where, "--launcher", "mpi", "--ranks", "2"],
        ["export", "--run", f"{root}/run", "--out", f"{root}/bundle", "--config", str(EXPORT), *quick],
        ["fold", str(HELD_OUT), "--bundle", f"{root}/bundle", "--out", f"{root}/folds", "--recycles", "1"],
    ):
        done = foldline(*arguments)
        assert done.returncode == 0, f"foldline {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return root


def test_training_left_weights_a_journal_and_scores(line: Path) -> None:
    run = line / "run"
    assert (run / "weights" / "ema.safetensors").stat().st_size > 0
    records = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert records
    assert json.loads((run / "summary.json").read_text())
    assert sorted(path.name for path in (run / "checkpoints").glob("step_*")) == ["step_00000002", "step_00000004"]


def test_the_fold_is_a_structure_with_its_companions(line: Path) -> None:
    kinds = {"".join(path.suffixes[-1:]) for path in (line / "folds").rglob("*") if path.is_file()}
    assert {".cif", ".json", ".html"} <= kinds


def test_a_changed_byte_in_the_bundle_is_named(line: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(line / "bundle", bundle)
    weights = next(bundle.rglob("*.onnx"))
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    done = foldline("fold", str(HELD_OUT), "--bundle", str(bundle), "--out", str(tmp_path / "folds"))
    assert done.returncode == 2
    assert weights.name in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "folds").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ingest", "{empty}", "--store", "{new}"], ["{empty}"]),
        (["ingest", "{nowhere}", "--store", "{new}"], ["{nowhere}"]),
        (["ingest", "{demo}", "--store", "{line}/store"], ["{line}/store"]),
        (["store", "ls", "{empty}"], ["{empty}"]),
        (["store", "show", "{line}/store", "9xyz_Q"], ["9xyz_Q"]),
        (["train", "--config", "{nowhere}"], ["{nowhere}"]),
        (["train", "--config", "{toml}", "--set", "optim.warmup_sample=1"], ["optim.warmup_sample", "did you mean 'warmup_samples'"]),
        (["train", "--config", "{toml}", "--set", "run.dir={line}/run", "--set", "data.store={line}/store"], ["{line}/run", "--resume"]),
        (["train", "--config", "{toml}", "--set", "run.dir={new}", "--set", "data.store={nowhere}"], ["{nowhere}", "foldline ingest"]),
        (["train", "--config", "{toml}", "--set", "run.dir={new}", "--set", "data.store={line}/store", "--resume"], ["{new}", "--resume"]),
        (["train", "--config", "{toml}", "--ranks", "2"], ["--ranks 2", "--launcher mpi"]),
        (["export", "--run", "{empty}", "--out", "{new}"], ["{empty}"]),
        (["export", "--run", "{line}/run", "--out", "{line}/bundle"], ["{line}/bundle"]),
        (["fold", "{held}", "--bundle", "{empty}", "--out", "{new}"], ["{empty}"]),
        (["fold", "{nowhere}", "--bundle", "{line}/bundle", "--out", "{new}"], ["{nowhere}"]),
        (["fold", "{held}", "--bundle", "{line}/bundle", "--out", "{line}/folds"], ["{line}/folds"]),
    ],
)
def test_bad_input_is_one_message_exit_2_and_nothing_written(line: Path, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    names = {
        "empty": tmp_path / "empty",
        "new": tmp_path / "new",
        "nowhere": tmp_path / "nowhere",
        "line": line,
        "demo": DEMO,
        "held": HELD_OUT,
        "toml": ROOT / "examples" / "demo.toml",
    }
    done = foldline(*(argument.format(**names) for argument in arguments))
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("foldline: ")
    assert done.stderr.count("\n") == 1
    assert all(word.format(**names) in done.stderr for word in words), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_a_rendezvous_port_in_use_is_named(line: Path, tmp_path: Path) -> None:
    where = ("--set", f"run.dir={tmp_path}/run", "--set", f"data.store={line}/store")
    ranks = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = foldline("train", "--config", str(ROOT / "examples" / "demo.toml"), *where, **ranks, MASTER_PORT=port)
    assert done.returncode == 69, done.stderr  # another start may have another port
    assert f"127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"preflight.json", "checkpoints"}  # of the preflight; no run began
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
