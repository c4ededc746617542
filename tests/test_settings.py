"""Settings: presets, overrides, and errors that name the nearest valid key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from foldline import settings
from foldline.errors import FoldlineError
from foldline.model.config import ModelConfig, tiny


@dataclass(frozen=True)
class Inner:
    width: int = 4
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    model: ModelConfig = field(default_factory=tiny)
    rate: float = 0.5


def load(tmp_path: Path, text: str, *overrides: str) -> Outer:
    path = tmp_path / "c.toml"
    path.write_text(text)
    return settings.load(Outer, path, overrides)


@pytest.mark.parametrize("name", sorted(ModelConfig.PRESETS))
def test_every_preset_survives_its_json_form(name: str) -> None:
    config = ModelConfig.PRESETS[name]()
    assert settings.from_dict(ModelConfig, settings.to_dict(config), "json") == config
    assert settings.from_dict(ModelConfig, {"preset": name}, "json") == config


def test_values_lie_over_presets_and_overrides_over_values(tmp_path: Path) -> None:
    text = 'rate = 1\n[inner]\nnames = ["a", "b"]\n[model]\npreset = "tiny"\n[model.evoformer]\nblocks = 7\n'
    config = load(tmp_path, text, "inner.width=9", "model.evoformer.heads_msa=2", "rate=0.25")
    assert (config.inner, config.rate) == (Inner(9, ("a", "b")), 0.25)
    assert (config.model.evoformer.blocks, config.model.evoformer.heads_msa) == (7, 2)
    assert config.model.evoformer.c_hidden_outer == tiny().evoformer.c_hidden_outer


def test_a_sub_network_has_presets_of_its_own(tmp_path: Path) -> None:
    config = load(tmp_path, '[model]\npreset = "tiny"\n[model.embedder]\npreset = "multimer"\nmax_relative_chain = 3\n')
    assert (config.model.embedder.use_chain_relative, config.model.embedder.max_relative_chain) == (True, 3)
    assert config.model.evoformer == tiny().evoformer


@pytest.mark.parametrize(
    ("text", "override", "words"),
    [
        ("[iner]\nwidth = 1\n", "", ["'iner'", "did you mean 'inner'"]),
        ("", "inner.widht=1", ["inner.widht", "did you mean 'width'"]),
        ("", "inner.width=wide", ["inner.width", "integer", "'wide'"]),
        ("", "inner.width=1.5", ["inner.width", "1.5"]),
        ("", "inner", ["--set 'inner'", "key.sub=value"]),
        ("rate = 1", "rate.x=1", ["'rate' is a value"]),
        ('[model]\npreset = "tny"\n', "", ["'tny'", "did you mean 'tiny'"]),
        ("rate = = 1", "", ["not valid TOML"]),
    ],
)
def test_a_mistake_names_the_key_and_the_way_out(tmp_path: Path, text: str, override: str, words: list[str]) -> None:
    with pytest.raises(FoldlineError) as caught:
        load(tmp_path, text, *([override] if override else []))
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FoldlineError, match=r"nowhere\.toml"):
        settings.load(Outer, tmp_path / "nowhere.toml")
