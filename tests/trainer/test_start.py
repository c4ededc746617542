"""Starting from weights: they fit or one error says why, a fresh head is named, and their loss is told before step 1."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foldline.cli import main
from foldline.data_store.config import DataConfig
from foldline.errors import FoldlineError
from foldline.model.alphafold import AlphaFold
from foldline.model.config import ModelConfig, tiny
from foldline.model.weights import save_weights
from foldline.trainer.config import RunConfig, RunSection
from foldline.trainer.journal import read_journal
from foldline.trainer.start import check_initial, load_initial

from .runs import BARE, finish, history, write_config

# Dropout is off, so that the first step's loss is the one told before it.
REST = BARE.replace("steps = 6", "steps = 2\nbatch = 4")
CALM = (
    "optim.clip=sample",
    "model.structure.dropout=0.0",
    *(f"model.{s}.dropout_{k}=0.0" for s in ("extra_msa", "evoformer") for k in ("msa", "pair")),
)
MODEL = replace(tiny(), c_m=8, c_z=8, c_s=8, c_e=8)


def starting(path: Path, model: ModelConfig = MODEL, fresh: tuple[str, ...] = ()) -> RunConfig:
    return RunConfig(DataConfig(store="s"), RunSection(dir="r", steps=1, init_weights=str(path), init_fresh=fresh), model=model)


def saved(folder: Path, model: ModelConfig) -> tuple[Path, AlphaFold]:
    torch.manual_seed(5)
    network = AlphaFold(model)
    save_weights(folder / "w.safetensors", network.state_dict())
    return folder / "w.safetensors", network


def test_weights_are_taken_over_whole(tmp_path: Path) -> None:
    path, network = saved(tmp_path, MODEL)
    mine = AlphaFold(MODEL)
    assert load_initial(mine, starting(path)) == f"starting from {path}"
    for name, value in network.state_dict().items():
        assert mine.state_dict()[name].equal(value)


def test_wrong_names_and_shapes_are_one_error(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, MODEL)
    other = replace(MODEL, c_m=16, heads=replace(MODEL.heads, pae_enabled=False))
    with pytest.raises(FoldlineError) as error:
        check_initial(starting(path, other))
    text = str(error.value)
    assert f"run.init_weights: {path} does not fit this model" in text
    assert "2 unknown: heads.pae.logits.bias, heads.pae.logits.weight" in text
    assert "misshapen: input_embedder.linear_target_m.weight is 8x22, the model has 16x22" in text


def test_a_named_head_may_start_fresh(tmp_path: Path) -> None:
    path, network = saved(tmp_path, replace(MODEL, heads=replace(MODEL.heads, pae_enabled=False)))
    with pytest.raises(FoldlineError, match=r"2 missing: heads.pae.logits.weight"):
        check_initial(starting(path))
    check_initial(starting(path, fresh=("heads.pae",)))
    torch.manual_seed(6)
    mine = AlphaFold(MODEL)
    before = mine.heads.pae.logits.bias.detach().clone()
    assert load_initial(mine, starting(path, fresh=("heads.pae",))) == f"starting from {path}; fresh: heads.pae"
    assert mine.heads.pae.logits.bias.equal(before)
    assert mine.heads.plddt.state_dict()["logits.weight"].equal(network.heads.plddt.state_dict()["logits.weight"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (starting(Path("/no/w.safetensors")), "run.init_weights = '/no/w.safetensors' is not there; `foldline weights import` makes"),
        (starting(Path(__file__)), "is not a readable safetensors file"),
    ],
)
def test_a_file_that_is_no_weights_is_named(config: RunConfig, message: str) -> None:
    with pytest.raises(FoldlineError, match=message):
        check_initial(config)


def test_a_fresh_part_that_the_network_lacks_is_named(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, MODEL)
    with pytest.raises(FoldlineError, match=r"the network has no module 'heads.pea'; did you mean 'heads.pae'"):
        check_initial(starting(path, fresh=("heads.pea",)))


def test_a_run_tells_the_loss_of_its_weights_before_the_first_step(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two ranks, four samples a step, each clipped alone; a second run starts from the first one's weights."""
    first, second = (write_config(tmp_path / name, store, REST) for name in ("first", "second"))
    finish(first, overrides=CALM)
    step = history(first.parent / "run")[0]
    assert {"optim/sample_norm_mean", "optim/sample_norm_max", "optim/clipped_share"} <= step.metrics.keys()
    assert step.metrics["optim/grad_norm"] <= 0.1
    weights = first.parent / "run" / "checkpoints" / "step_00000002" / "model.safetensors"

    printed, _ = finish(second, overrides=[*CALM, "run.steps=1", f'run.init_weights="{weights}"'])
    records = read_journal(second.parent / "run" / "metrics.jsonl")
    imported, step = (next(r for r in records if r.kind == kind) for kind in ("imported", "train"))
    assert imported.step == 0
    assert records.index(imported) < records.index(step)
    assert imported.metrics["imported/loss/total"] == pytest.approx(step.metrics["loss/total"], rel=1e-5)
    assert f"starting from {weights}; before step 1: loss {step.metrics['loss/total']:.3f}" in printed

    third = write_config(tmp_path / "third", store, REST)
    wrong = [
        "train",
        "--config",
        str(third),
        "--set=model.c_m=16",
        f'--set=run.init_weights="{weights}"',
        "--launcher",
        "mpi",
        "--ranks",
        "2",
    ]
    assert main(wrong) == 2
    assert capsys.readouterr().err.count("does not fit this model") == 1


def test_a_run_that_ended_before_its_first_checkpoint_can_neither_go_on_nor_be_overwritten(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both starts name the way out: neither sends to the other."""
    path, run = write_config(tmp_path, store), tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    assert main(["train", "--config", str(path)]) == 2
    assert f"{run} holds a run that ended before its first checkpoint; delete or rename it" in capsys.readouterr().err
    assert main(["train", "--config", str(path), "--resume"]) == 2
    assert f"{run} holds no checkpoint; delete or rename {run} and start without --resume" in capsys.readouterr().err
    (run / "checkpoints" / "step_00000003").mkdir(parents=True)
    (run / "checkpoints" / "step_00000003" / "manifest.json").touch()
    assert main(["train", "--config", str(path)]) == 2
    assert "already holds a run; continue it with --resume" in capsys.readouterr().err
