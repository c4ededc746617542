"""`foldline preflight` and `foldline train` on real ranks: an odd rank ends both with code 2 and is named, a skipped check does not."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from foldline.cli import main
from foldline.cluster.preflight import CHECKS
from foldline.cluster.ranks import discover
from foldline.data_store.ingest import ingest

from .hosts import ROOT, clean

CONFIG = """
[model]
preset = "tiny"
template = { enabled = false }
[data]
store = "STORE"
[features]
crop_size = 16
max_msa_clusters = 4
max_extra_msa = 8
max_templates = 0
[run]
dir = "RUN"
steps = 1
device = "cpu"
threads = 1
[tracking]
mlflow = false
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "store"
    ingest(ROOT / "examples" / "demo", path)
    return path


@pytest.fixture
def config(store: Path, tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.replace("STORE", str(store)).replace("RUN", str(tmp_path / "run")))
    return path


def two_ranks(config: Path, *more: str, second: Sequence[str] = (), path: str = "") -> list[tuple[int, str, str]]:
    """(exit code, output, errors) of two ranks; ``second`` and PYTHONPATH ``path`` go to rank 1 alone."""
    port, ranks = discover({}).port, []
    for rank in range(2):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        variables = clean(os.environ) | {name: str(value) for name, value in place.items()}
        variables |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": path} if rank and path else {})
        program = [sys.executable, "-m", "foldline.cli", "preflight", "--config", str(config), *more, *(second if rank else ())]
        ranks.append(subprocess.Popen(program, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    told = [rank.communicate(timeout=200) for rank in ranks]
    return [(rank.returncode, *each) for rank, each in zip(ranks, told, strict=True)]


def test_another_version_and_another_config_are_named(config: Path, tmp_path: Path) -> None:
    metadata = tmp_path / "other" / "numpy-0.1.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.1\n")
    path, lr = str(metadata.parents[1]), ("--set=optim.lr=0.5",)
    left_out = '--set=preflight.skip=["dataset"]'
    (code, out, errors), (second_code, second_out, _) = two_ranks(config, left_out, second=lr, path=path)
    here = os.uname().nodename
    assert (code, second_code) == (2, 2), errors
    table = " ".join(out.split())
    assert f"rank 1 on {here} has numpy 0.1, rank 0 on {here} {importlib.metadata.version('numpy')}" in table
    assert f"rank 1 on {here} has config hash" in table
    assert "--set 'preflight.skip=[\"packages\"]'" in table
    assert "the preflight failed: packages, config" in errors
    assert second_out == ""
    report = json.loads((tmp_path / "run" / "preflight.json").read_text())
    assert report["failed"] == ["packages", "config"]
    assert len(report["ranks"]) == 2
    assert [check["check"] for check in report["checks"]] == [name for name in CHECKS if name != "dataset"]


def test_a_training_without_room_for_its_checkpoints_does_not_begin(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--config", str(config), "--set=run.keep_last=100000000"]) == 2
    out, errors = capfd.readouterr()
    assert "100000001 checkpoints" in " ".join(out.split())
    assert "the preflight failed: checkpoint" in errors
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_a_rate_that_the_store_does_not_reach_fails_by_name_or_is_left_out(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fast = ["preflight", "--config", str(config), "--set=preflight.samples_per_second=1e9"]
    assert main(fast) == 2
    out = " ".join(capfd.readouterr().out.split())
    assert "a rank needs 1000000000.00 (preflight.samples_per_second)" in out
    assert main([*fast, '--set=preflight.skip=["store"]']) == 0
    assert "nothing failed in" in capfd.readouterr().out


def test_values_out_of_range_and_ranks_without_a_launcher_are_mistakes(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["preflight", "--config", str(config), "--set=preflight.link_share=2.0"]) == 2
    assert "preflight.link_share = 2.0 is not within (0, 1]" in capfd.readouterr().err
    assert main(["preflight", "--config", str(config), "--ranks", "2"]) == 2
    assert "--ranks 2 needs --launcher mpi" in capfd.readouterr().err
