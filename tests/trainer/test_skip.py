"""Steps that are not finite: nothing moves on any rank, they are counted and named, and a file runs the sample alone."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from foldline.cli import main
from foldline.data_store.store import Store
from foldline.data_store.writer import StoreWriter
from foldline.trainer.config import load_config
from foldline.trainer.journal import read_journal
from foldline.trainer.skip import _runs, poison

from . import runs
from .runs import BARE, ROOT, SECONDS, command

__all__ = ["ROOT", "write_config"]
ABSURD = "1bxy_A"  # its coordinates overflow float32 when they are squared; samples 7, 8 and 13 of the order
REST = f"""{BARE}
checkpoint_every = 1
keep_last = 10
skip_budget = 6
"""


@pytest.fixture(scope="module")
def absurd(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same chains, one of them with a coordinate that no protein has."""
    plain, path = Store.open(store), tmp_path_factory.mktemp("data") / "absurd"
    with StoreWriter(path) as writer:
        for chain in plain.chain_ids:
            record = plain.record(chain)
            if chain == ABSURD:
                record = replace(record, positions=record.positions * np.float32(1e19))
            writer.add(record)
    return path


def write_config(folder: Path, store: Path) -> Path:
    return runs.write_config(folder, store, REST)


def train(config: Path, ranks: int, *overrides: str) -> subprocess.CompletedProcess[str]:
    words = command(config, overrides=overrides, ranks=ranks)
    return subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)


def weights(run: Path, step: int, name: str) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step_{step:08d}" / f"{name}.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


def optimizer_state(run: Path, step: int) -> list[torch.Tensor]:
    files = sorted((run / "checkpoints" / f"step_{step:08d}").glob("rank_*.safetensors"))
    return [tensor for file in files for key, tensor in sorted(load_file(file).items()) if key.startswith("exp_avg")]


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        (0, ()),
        (2, ("optim.clip=sample",)),
        pytest.param(3, (), marks=pytest.mark.slow),
        pytest.param(1, ("run.accumulate=2",), marks=pytest.mark.slow),
    ],
)
def test_a_step_with_an_absurd_chain_moves_nothing(absurd: Path, tmp_path: Path, stage: int, more: tuple[str, ...]) -> None:
    config, run = write_config(tmp_path, absurd), tmp_path / "run"
    done = train(config, 2, f"deepspeed.zero_stage={stage}", *more)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [r for r in read_journal(run / "metrics.jsonl") if r.kind == "train"]
    skipped = [r.step for r in records if not np.isfinite(r.metrics["optim/grad_norm"])]
    assert 0 < len(skipped) < 6
    assert skipped[0] > 1
    assert records[-1].metrics["skip/count"] == len(skipped)
    for step in range(2, 7):
        for name in ("model", "ema"):
            assert same(weights(run, step, name), weights(run, step - 1, name)) == (step in skipped), (step, name, skipped)
        before, after = optimizer_state(run, step - 1), optimizer_state(run, step)
        assert before
        assert all(a.equal(b) for a, b in zip(before, after, strict=True)) == (step in skipped)
    assert [r.metrics["optim/lr"] for r in records] == sorted(r.metrics["optim/lr"] for r in records)
    assert f"step {skipped[0]}: the loss is not finite (rank " in done.stdout
    assert f"(chain '{ABSURD}', residues " in done.stdout


def test_replay_runs_the_sample_alone(absurd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, absurd)
    done = train(config, 2, "run.skip_budget=0", "deepspeed.zero_stage=2")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "run.skip_budget allows 0" in done.stderr
    (file, *_) = sorted((tmp_path / "run" / "replays").glob("step_*.json"))
    told = json.loads(file.read_text())
    assert [s["chain"] for s in told["samples"]] == [ABSURD]
    saved = [int(path.name.removeprefix("step_")) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert max(saved) == told["step"] - 1  # nothing of a step that is not finite is saved
    assert main(["replay", str(file)]) == 0
    printed = capsys.readouterr().out
    assert f"not finite: {', '.join(told['samples'][0]['terms'])}\n" in printed
    assert "every module's output is finite" in printed  # the truth is absurd, not the network
    assert main(["replay", str(file), "--dtype", "float64"]) == 0
    assert "every loss is finite" in capsys.readouterr().out
    assert main(["replay", str(config)]) == 2
    assert "is no replay file" in capsys.readouterr().err


def test_damaged_weights_end_the_run_and_the_replay_names_the_module(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from foldline.trainer.step import TrainingStep

    config = write_config(tmp_path, store)
    tensors = {k: v.contiguous() for k, v in TrainingStep(load_config(config)).model.state_dict().items()}
    broken = next(name for name in tensors if name.startswith("evoformer") and "transition" in name and name.endswith("weight"))
    tensors[broken].view(-1)[0] = torch.inf
    save_file(tensors, tmp_path / "broken.safetensors")
    done = train(config, 1, f"run.init_weights={tmp_path / 'broken.safetensors'}", "run.skip_budget=1", "deepspeed.zero_stage=0")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "foldline: step 2: " in done.stderr
    assert "that makes 2 skipped within 100 steps, run.skip_budget allows 1" in done.stderr
    replays = tmp_path / "run" / "replays"
    assert sorted(p.name for p in replays.iterdir()) == ["step_1_rank_0.json", "step_2_rank_0.json", "weights_before_1.safetensors"]
    assert main(["replay", str(replays / "step_1_rank_0.json")]) == 0
    printed = capsys.readouterr().out
    assert f"weights: {broken} is not finite" in printed
    assert f"first output that is not finite: {broken.rsplit('.', 1)[0]} (" in printed


def test_the_gradient_of_a_loss_that_is_not_finite_is_not_finite() -> None:
    weight = torch.ones(2, requires_grad=True)
    poison((weight * 3).sum() + torch.inf).backward()
    assert weight.grad is not None
    assert weight.grad.isnan().all()
    weight.grad = None
    poison((weight * 3).sum()).backward()
    assert weight.grad.tolist() == [3.0, 3.0]


def test_residues_are_told_as_runs() -> None:
    assert _runs([3, 4, 5, 9]) == "3-5,9"
    assert _runs([]) == ""
