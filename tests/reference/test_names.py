"""DeepMind's full-size parameter listings (names/*.json): our networks hold the same arrays, name by name and shape by shape."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from foldline.model.config import ModelConfig
from foldline.model.convert.deepmind import deepmind_shapes, empty_state, name_table
from foldline.tests.reference.model_cases import REFERENCE, model_config

LISTINGS = sorted(p.stem for p in REFERENCE.glob("names/*.json") if p.stem not in ("summary", "configs"))
pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference folder at {REFERENCE} (FOLDLINE_REFERENCE)")


def test_there_is_something_to_compare() -> None:
    assert LISTINGS


@pytest.mark.parametrize("preset", LISTINGS)
def test_every_parameter_is_named_and_shaped_as_deepminds(preset: str) -> None:
    listing = json.loads((REFERENCE / "names" / f"{preset}.json").read_text())
    config = ModelConfig.PRESETS[preset]()
    expected = {name: tuple(shape) for name, shape in listing["params"].items()}
    assert deepmind_shapes(config) == expected
    state, rows = empty_state(config), name_table(config)
    assert sum(tensor.numel() for tensor in state.values()) == listing["num_parameters"]
    ours = Counter(name.replace("*", str(i)) for row in rows for name in row.ours for i in range(max(row.layers, 1)))
    assert ours == Counter(state.keys()), "each of our tensors stands in exactly one row"
    assert Counter(name for row in rows for name in row.theirs) == Counter(expected.keys())


@pytest.mark.parametrize("preset", LISTINGS)
def test_presets_are_deepminds_configs(preset: str) -> None:
    config = json.loads((REFERENCE / "names" / "configs.json").read_text())[preset]
    theirs, ours = model_config(config["model"]), ModelConfig.PRESETS[preset]()
    if not ours.template.enabled:  # then nothing else of the template section is read
        theirs, ours = (replace(c, template=replace(c.template, embed_torsion_angles=False)) for c in (theirs, ours))
    assert theirs == ours
