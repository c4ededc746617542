"""A config is complete, checked and comparable; every field of ours is read by something."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from foldline import trainer
from foldline.data_store.config import DataConfig
from foldline.errors import FoldlineError
from foldline.settings import from_dict
from foldline.trainer import config as module
from foldline.trainer.config import RunConfig, RunSection, changed_keys, check, load_config, passes_per_step, samples_per_step, to_json

CONFIG = RunConfig(DataConfig(store="s", train=("1abc_A",)), RunSection(dir="r", steps=10))
OWN = (module.OptimConfig, module.RunSection, module.ValidateConfig, module.DeepSpeedConfig, module.TrackingConfig)
DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.toml"


def test_every_own_field_is_read_outside_the_config() -> None:
    folder = Path(trainer.__file__).parent
    sources = "\n".join(path.read_text() for path in folder.rglob("*.py") if path.name != "config.py")
    sources += re.sub(r"(?s)@dataclass.*?(?=\ndef |\n@dataclass)", "", (folder / "config.py").read_text())
    unread = [f"{section.__name__}.{f.name}" for section in OWN for f in fields(section) if not re.search(rf"\.{f.name}\b", sources)]
    assert unread == []


def test_the_json_reads_back_to_an_equal_config() -> None:
    assert from_dict(RunConfig, json.loads(to_json(CONFIG)), "json") == CONFIG
    assert {"model", "features", "data", "run"} <= json.loads(to_json(CONFIG)).keys()


def test_the_demo_config_is_valid() -> None:
    config = load_config(DEMO)
    assert config.deepspeed.zero_stage == 2
    assert not config.model.template.enabled


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run.stepz=3"], "unknown key 'run.stepz'; did you mean 'steps'"),
        (["optimizer.lr=1e-3"], "unknown key 'optimizer'; did you mean 'optim'"),
        (["run.steps=0", "optim.beta1=1.0"], r"run.steps = 0 is below 1; optim.beta1 = 1.0 is not within"),
        (["run.steps=many"], "run.steps: input should be a valid integer"),
        (["deepspeed.zero_stage=4"], "deepspeed.zero_stage = 4 is none of 0, 1, 2, 3"),
        (["deepspeed.precision=fp16"], "'fp16' is none of fp32, bf16"),
        (["deepspeed.precision=bf16-pure"], "'bf16-pure' is none of fp32, bf16"),
        (["run.device=tpu"], "run.device = 'tpu'"),
        (["features.max_templates=4"], "model.template.enabled = false, but features.max_templates = 4"),
        (["data.store="], "data.store is empty"),
        (["optim.clip_norm=-1.0"], 'optim.clip_norm = -1.0 is not above 0; optim.clip = "none" switches clipping off'),
        (["optim.clip=global"], "optim.clip = 'global' is none of sample, batch, none"),
        (["run.batch=-1"], "run.batch = -1 is negative"),
        (["run.batch=8", "run.accumulate=2"], "run.batch = 8 and run.accumulate = 2 both say how many passes"),
        (['run.init_fresh=["heads.pae"]'], r"run.init_fresh = \['heads.pae'\] without run.init_weights"),
        (["deepspeed.checkpointing=jax"], "deepspeed.checkpointing = 'jax' is none of torch, deepspeed"),
        (["deepspeed.offload_optimizer=true", "deepspeed.zero_stage=0"], "deepspeed.offload_optimizer needs deepspeed.zero_stage 1"),
    ],
)
def test_a_bad_value_is_named_with_its_rule(overrides: list[str], message: str) -> None:
    with pytest.raises(FoldlineError, match=message):
        load_config(DEMO, overrides)


def test_all_broken_rules_are_told_at_once() -> None:
    with pytest.raises(FoldlineError) as error:
        check(replace(CONFIG, run=replace(CONFIG.run, steps=0, keep_last=0, threads=-1), optim=replace(CONFIG.optim, lr=0.0)))
    assert str(error.value).count(";") >= 3


def test_a_resumed_run_may_go_on_longer_but_not_differently() -> None:
    saved = json.loads(to_json(CONFIG))
    longer = replace(CONFIG, run=replace(CONFIG.run, steps=99, keep_last=9), data=replace(CONFIG.data, store="moved", workers=4))
    assert changed_keys(saved, longer) == []
    other = replace(
        CONFIG,
        run=replace(CONFIG.run, seed=1),
        model=replace(CONFIG.model, c_m=8),
        optim=replace(CONFIG.optim, lr=0.5),
        data=replace(CONFIG.data, train=("2abc_A",)),
        features=replace(CONFIG.features, crop_size=9),
    )
    keys = [text.split(" ")[0] for text in changed_keys(saved, other)]
    assert keys == ["data.train", "features.crop_size", "model.c_m", "optim.lr", "run.seed"]
    assert "optim.lr (was 0.001, is 0.5)" in changed_keys(saved, other)


def test_a_key_that_an_older_version_did_not_know_counts_as_its_default() -> None:
    saved = json.loads(to_json(CONFIG))
    del saved["optim"]["eps"]
    assert changed_keys(saved, CONFIG) == []


def test_samples_per_step_counts_ranks_passes_and_micro_batch() -> None:
    assert samples_per_step(replace(CONFIG, run=replace(CONFIG.run, micro_batch=2, accumulate=3)), 4) == 24


def test_a_batch_is_shared_out_over_whatever_ranks_there_are() -> None:
    config = replace(CONFIG, run=replace(CONFIG.run, micro_batch=2, batch=128))
    assert [(passes_per_step(config, world), samples_per_step(config, world)) for world in (1, 8, 64)] == [(64, 128), (8, 128), (1, 128)]
    with pytest.raises(FoldlineError, match=r"run.batch = 128 cannot be shared by 3 ranks with run.micro_batch = 2; give a multiple of 6"):
        passes_per_step(config, 3)
