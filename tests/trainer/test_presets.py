"""AF2's recipes as presets of a run's file: the published figures, each of which the file may replace."""

from __future__ import annotations

from pathlib import Path

import pytest

from foldline.errors import FoldlineError
from foldline.trainer.config import RunConfig, load_config, samples_per_step

RECIPES = ("af2_initial", "af2_finetune", "af2_finetune_ptm", "finetune_from_weights")


def written(folder: Path, text: str, overrides: tuple[str, ...] = ()) -> RunConfig:
    path = folder / "run.toml"
    path.write_text(text)
    return load_config(path, ('run.dir="r"', 'data.store="s"', *overrides))


@pytest.mark.parametrize(
    ("preset", "crop", "clusters", "extra", "lr", "warmup", "steps", "violation", "resolved", "pae"),
    [
        ("af2_initial", 256, 124, 1024, 1e-3, 128_000, 78_125, 0.0, 0.0, 0.0),
        ("af2_finetune", 384, 508, 5120, 5e-4, 0, 11_719, 1.0, 0.01, 0.0),
        ("af2_finetune_ptm", 384, 508, 5120, 5e-4, 0, 11_719, 1.0, 0.01, 0.1),
        ("finetune_from_weights", 384, 508, 5120, 5e-4, 12_800, 11_719, 1.0, 0.01, 0.1),
    ],
)
def test_a_recipe_has_the_published_figures(
    tmp_path: Path,
    preset: str,
    crop: int,
    clusters: int,
    extra: int,
    lr: float,
    warmup: int,
    steps: int,
    violation: float,
    resolved: float,
    pae: float,
) -> None:
    config = written(tmp_path, f'preset = "{preset}"\n')
    features, optim, loss = config.features, config.optim, config.model.loss
    assert (features.crop_size, features.max_msa_clusters, features.max_extra_msa, features.max_templates) == (crop, clusters, extra, 4)
    assert (features.max_recycles, features.clamped_fape_fraction, features.masked_msa_fraction) == (3, 0.9, 0.15)
    assert (optim.lr, optim.warmup_samples, optim.decay_after_samples, optim.decay) == (lr, warmup, 6_400_000, 0.95)
    assert (optim.beta1, optim.beta2, optim.eps, optim.clip, optim.clip_norm, optim.ema_decay) == (0.9, 0.999, 1e-6, "sample", 0.1, 0.999)
    assert (loss.violation_weight, loss.experimentally_resolved_weight, loss.pae_weight) == (violation, resolved, pae)
    assert (loss.fape_weight, loss.distogram_weight, loss.masked_msa_weight, loss.plddt_weight) == (1.0, 0.3, 2.0, 0.01)
    assert (config.run.steps, samples_per_step(config, 8), config.model.heads.pae_enabled) == (steps, 128, pae > 0)
    stack = config.model.evoformer
    assert (stack.blocks, stack.dropout_msa, stack.dropout_pair, config.model.structure.dropout) == (48, 0.15, 0.25, 0.1)
    assert (config.data.max_resolution, config.data.max_single_residue) == (9.0, 0.8)
    assert bool(config.run.init_weights) == (preset != "af2_initial")
    assert config.run.init_fresh == (("heads.pae",) if preset == "af2_finetune_ptm" else ())


def test_the_file_is_laid_over_a_recipe_key_by_key(tmp_path: Path) -> None:
    text = """
    preset = "af2_initial"
    [model]
    preset = "small"
    [model.loss]
    chi_weight = 0.25
    [features]
    crop_size = 128
    [optim]
    clip = "batch"
    """
    config = written(tmp_path, text, ("optim.lr=2e-3",))
    assert config.model.evoformer.blocks == 12  # another network
    assert (config.model.loss.violation_weight, config.model.loss.chi_weight) == (0.0, 0.25)  # by the recipe's losses, but for one
    assert (config.features.crop_size, config.features.max_extra_msa) == (128, 1024)
    assert (config.optim.lr, config.optim.clip, config.optim.warmup_samples) == (2e-3, "batch", 128_000)


def test_a_recipe_can_be_chosen_on_the_command_line(tmp_path: Path) -> None:
    assert written(tmp_path, "", ("preset=af2_finetune",)).features.crop_size == 384


def test_an_unknown_recipe_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(FoldlineError, match=r"preset = 'af2_inital' is not a preset; did you mean 'af2_initial'"):
        written(tmp_path, 'preset = "af2_inital"\n')


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_resolves_to_a_valid_run(tmp_path: Path, name: str) -> None:
    assert set(RunConfig.PRESETS) == set(RECIPES)
    assert written(tmp_path, f'preset = "{name}"\n').optim.clip == "sample"
