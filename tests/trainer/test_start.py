"""Starting from weights: they fit or one error says why, a fresh head is named, and their loss is told before step 1."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foldline.cli import main
from foldline.cluster.launch import mpirun_command
from foldline.data_store.config import DataConfig
from foldline.data_store.ingest import ingest
from foldline.errors import FoldlineError
from foldline.model.alphafold import AlphaFold
from foldline.model.config import ModelConfig, tiny
from foldline.model.weights import save_weights
from foldline.trainer.config import RunConfig, RunSection
from foldline.trainer.journal import read_journal
from foldline.trainer.start import check_initial, load_initial

ROOT = Path(__file__).resolve().parents[2]
# Dropout is off, so that the first step's loss is the one told before it.
CONFIG = """
[model]
preset = "tiny"
c_m = 8
c_z = 8
c_s = 8
c_e = 8
template = { enabled = false }
extra_msa = { dropout_msa = 0.0, dropout_pair = 0.0 }
evoformer = { blocks = 1, dropout_msa = 0.0, dropout_pair = 0.0 }
structure = { iterations = 2, dropout = 0.0 }
[features]
crop_size = 16
max_msa_clusters = 4
max_extra_msa = 8
max_templates = 0
max_recycles = 1
[optim]
clip = "sample"
[run]
steps = 2
batch = 4
threads = 1
device = "cpu"
[validate]
every = 0
trained_chains = 0
[tracking]
mlflow = false
"""
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


def test_a_run_tells_the_loss_of_its_weights_before_the_first_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two ranks, four samples a step, each clipped alone; a second run starts from the first one's weights."""
    ingest(ROOT / "examples" / "demo", tmp_path / "store")
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)
    first = train(config, tmp_path, "first")
    step = next(r for r in read_journal(first / "metrics.jsonl") if r.kind == "train")
    assert {"optim/sample_norm_mean", "optim/sample_norm_max", "optim/clipped_share"} <= step.metrics.keys()
    assert step.metrics["optim/grad_norm"] <= 0.1
    weights = first / "checkpoints" / "step_00000002" / "model.safetensors"

    second = train(config, tmp_path, "second", "run.steps=1", f'run.init_weights="{weights}"')
    history = read_journal(second / "metrics.jsonl")
    imported, step = (next(r for r in history if r.kind == kind) for kind in ("imported", "train"))
    assert imported.step == 0
    assert history.index(imported) < history.index(step)
    assert imported.metrics["imported/loss/total"] == pytest.approx(step.metrics["loss/total"], rel=1e-5)
    assert f"starting from {weights}; before step 1: loss {step.metrics['loss/total']:.3f}" in (second / "printed").read_text()

    wrong = command(config, tmp_path, "third", "model.c_m=16", f'run.init_weights="{weights}"')
    assert main([*wrong, "--launcher", "mpi", "--ranks", "2"]) == 2
    assert capsys.readouterr().err.count("does not fit this model") == 1


def command(config: Path, folder: Path, name: str, *overrides: str) -> list[str]:
    places = (f'run.dir="{folder / name}"', f'data.store="{folder / "store"}"')
    return ["train", "--config", str(config), *(f"--set={o}" for o in (*places, *overrides))]


def train(config: Path, folder: Path, name: str, *overrides: str) -> Path:
    """A run on two ranks; its directory, with what it printed in the file ``printed``."""
    job = mpirun_command(2, [sys.executable, "-m", "foldline.cli", *command(config, folder, name, *overrides)])
    done = subprocess.run(job, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / name / "printed").write_text(done.stdout)
    return folder / name
