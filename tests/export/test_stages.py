"""The stages are the pass, cut: chained by name they give FoldPass's own numbers, bit for bit, in every precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from foldline.data_store.config import FeatureConfig
from foldline.data_store.featurize import inference_cycles
from foldline.data_store.types import ChainRecord
from foldline.errors import FoldlineError
from foldline.export.graph import RECYCLED, FoldPass, border_schema, feeds_of, input_schema, output_schema
from foldline.export.stages import POLICIES, PRECISIONS, stage_modules, stages, tensor_dtype
from foldline.model.config import ModelConfig, model_1, model_1_ptm, model_3
from foldline.model.precision import apply_precision
from foldline.tests.export.cases import CONFIGS, model_of, with_templates


def no_angles() -> ModelConfig:
    """Templates as pair features alone."""
    config = CONFIGS["small"]()
    return replace(config, template=replace(config.template, embed_torsion_angles=False))


SHAPES = {**CONFIGS, "no_angles": no_angles}


def chained(modules: Mapping[str, nn.Module], config: ModelConfig, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor of a pass, each stage fed by name."""
    known = dict(feeds)
    for stage in stages(config):
        made = modules[stage.name](*(known[name] for name in stage.inputs))
        known |= zip(stage.outputs, made, strict=True)
    return known


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_chained_stages_are_the_pass(shape: str, precision: str, records: dict[str, ChainRecord]) -> None:
    model = model_of(SHAPES[shape]())
    apply_precision(model, POLICIES[precision])
    config = model.config
    features = FeatureConfig(max_msa_clusters=5, max_extra_msa=7, max_templates=2)
    (batch,) = inference_cycles(with_templates(records["1ajj_A"], 2), features, 0, 1)
    feeds = {name: torch.from_numpy(array) for name, array in feeds_of(batch, config, None).items()}
    generator = torch.Generator().manual_seed(0)
    for name in RECYCLED:
        feeds[name] = torch.randn(feeds[name].shape, generator=generator)
    with torch.inference_mode():
        whole = dict(zip(output_schema(config), FoldPass(model).eval()(*(feeds[name] for name in input_schema(config))), strict=True))
        parts = chained(stage_modules(model), config, feeds)
    for name, value in whole.items():
        assert torch.equal(parts[name], value), f"{name}: {(parts[name] - value).abs().max()}"
        assert bool(value.isfinite().all())
    for name, schema in border_schema(config).items():
        if name in parts:
            assert str(parts[name].dtype) == f"torch.{tensor_dtype(name, schema, precision)}", name


@pytest.mark.parametrize("config", [model_1(), model_1_ptm(), model_3(), no_angles(), CONFIGS["bare"]()])
def test_every_stage_reads_what_was_made_before_it(config: ModelConfig) -> None:
    schema, known = border_schema(config), dict(input_schema(config))
    read: set[str] = set()
    for stage in stages(config):
        assert stage.inputs.items() <= known.items()
        assert not known.keys() & stage.outputs.keys(), "a name is made twice"
        read |= stage.inputs.keys()
        known |= stage.outputs
    assert output_schema(config).items() <= known.items() <= schema.items()
    unread = known.keys() - read - output_schema(config).keys()
    assert not unread, "made or fed, but never read"


def test_stages_run_in_the_order_of_the_network() -> None:
    assert [stage.name for stage in stages(model_1())] == ["embed", "templates", "extra", "evoformer", "structure", "heads"]
    assert [stage.name for stage in stages(model_3())] == ["embed", "extra", "evoformer", "structure", "heads"]


def test_a_precision_that_does_not_exist_is_refused() -> None:
    with pytest.raises(FoldlineError, match="precision 'int8' is unknown; choose from fp32, bf16, fp16"):
        tensor_dtype("s", border_schema(model_1())["s"], "int8")
