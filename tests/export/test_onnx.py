"""The ONNX files: their inputs and outputs, every weight under its name, nothing else. Their numbers: ``test_runners.TestOnnxRuntime``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from foldline.data_store.types import ChainRecord, FeatureBatch, schema_of
from foldline.errors import FoldlineError
from foldline.export.graph import CHAIN_FIELDS, RECYCLED, border_schema, input_schema, output_schema
from foldline.export.graphs import OPSETS, graph_path, write_graphs
from foldline.export.stages import PRECISIONS, stages, tensor_dtype
from foldline.export.weight_file import WEIGHTS_FILE, write_weights
from foldline.model.alphafold import AlphaFold
from foldline.tests.export.cases import CONFIGS, model_of
from foldline.tests.export.stage_chain import chain, onnxruntime_stages, real_feeds, torch_stages, write_quickly

UNUSED_HEADS = ("heads.masked_msa.", "heads.experimentally_resolved.")
GraphsOf = Callable[[str, str], tuple[AlphaFold, Path]]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("config", CONFIGS)
def test_inputs_and_outputs_are_the_schema(config: str, precision: str, graphs_of: GraphsOf) -> None:
    model, folder = graphs_of(config, precision)
    for stage in stages(model.config):
        graph = onnx.load(graph_path(folder, stage.name), load_external_data=False).graph
        for values, schema in ((graph.input, stage.inputs), (graph.output, stage.outputs)):
            shapes = {v.name: tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
            assert shapes == {name: field.dims for name, field in schema.items()}
            types = {v.name: onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type).name for v in values}
            assert types == {name: tensor_dtype(name, field, precision) for name, field in schema.items()}
    assert {file.name for file in folder.iterdir()} == {f"{stage.name}.onnx" for stage in stages(model.config)} | {WEIGHTS_FILE}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("config", CONFIGS)
def test_weights_stand_under_their_names(config: str, precision: str, graphs_of: GraphsOf) -> None:
    model, folder = graphs_of(config, precision)
    parameters = {name: p.detach() for name, p in model.named_parameters() if not name.startswith(UNUSED_HEADS)}
    found: dict[str, onnx.TensorProto] = {}
    places = []
    for stage in stages(model.config):
        for tensor in onnx.load(graph_path(folder, stage.name)).graph.initializer:
            assert tensor.name not in found, "one weight in two stages"
            found[tensor.name] = tensor
        for tensor in onnx.load(graph_path(folder, stage.name), load_external_data=False).graph.initializer:
            external = {entry.key: entry.value for entry in tensor.external_data}
            assert external["location"] == WEIGHTS_FILE
            places.append((int(external["offset"]), int(external["length"])))
    assert set(parameters) == set(found)
    for name, value in parameters.items():
        array = numpy_helper.to_array(found[name])
        typed = value.to(getattr(torch, array.dtype.name)).float().numpy()
        np.testing.assert_array_equal(array.astype(np.float32), typed, err_msg=name)
    ends = [offset + length for offset, length in sorted(places)]
    assert all(end <= start for end, (start, _) in zip(ends, sorted(places)[1:], strict=False)), "two weights overlap"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_change_the_weights_file_only(precision: str, graphs_of: GraphsOf, tmp_path: Path) -> None:
    """A fresh network has hundreds of equal tensors, which tracers like to merge; refitting one of them would then change others."""
    model, folder = graphs_of("bare", precision)
    fresh = AlphaFold(model.config)
    write_quickly(fresh, tmp_path, precision)
    for stage in stages(model.config):
        assert graph_path(tmp_path, stage.name).read_bytes() == graph_path(folder, stage.name).read_bytes(), stage.name
    assert (tmp_path / WEIGHTS_FILE).read_bytes() != (folder / WEIGHTS_FILE).read_bytes()
    refitted = write_weights(folder, fresh.state_dict(), tmp_path / "refit.bin")
    assert refitted.read_bytes() == (tmp_path / WEIGHTS_FILE).read_bytes()
    restored = write_weights(tmp_path, model.state_dict())
    assert restored.read_bytes() == (folder / WEIGHTS_FILE).read_bytes(), "the same weights give the same bytes"


def test_bad_weights_leave_the_file_as_it_was(graphs_of: GraphsOf, tmp_path: Path) -> None:
    model, folder = graphs_of("bare", "fp16")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / WEIGHTS_FILE).read_bytes()
    weights = model.state_dict()
    name = "evoformer.blocks.0.msa_transition.linear_1.weight"
    cases = {
        "no weight of that name": {key: value for key, value in weights.items() if key != name},
        "another width": weights | {name: weights[name][:-1]},
        "beyond float16": weights | {name: torch.full_like(weights[name], 7e4)},
    }
    for what, bad in cases.items():
        with pytest.raises(FoldlineError, match=name):
            write_weights(tmp_path, bad)
        assert (tmp_path / WEIGHTS_FILE).read_bytes() == before, what
        assert not list(tmp_path.glob(".*")), what


def test_templates_without_torsions_add_no_rows(records: dict[str, ChainRecord], tmp_path: Path) -> None:
    """The Evoformer's graph then takes no rows from the templates' one; opset 20 is the newest that is written."""
    config = CONFIGS["small"]()
    model = model_of(replace(config, template=replace(config.template, embed_torsion_angles=False)))
    write_quickly(model, tmp_path, "fp32", OPSETS[-1])
    feeds = real_feeds(records["1ajj_A"], model.config, 4, 6, 2)
    ours, theirs = chain(model.config, feeds, torch_stages(model)), chain(model.config, feeds, onnxruntime_stages(tmp_path))
    for key in output_schema(model.config):
        np.testing.assert_allclose(theirs[key], ours[key], rtol=1e-4, atol=2e-3 if key in ("positions", "next_x") else 5e-4, err_msg=key)
    feeds["template_mask"][:] = 0
    without = chain(model.config, feeds, onnxruntime_stages(tmp_path))
    assert np.abs(without["positions"] - theirs["positions"]).max() > 1e-3, "templates change nothing: they were not tested"


def test_an_opset_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FoldlineError, match=r"opset 23 is outside 17\.\.20"):
        write_graphs(model_of(CONFIGS["bare"]()), tmp_path, "fp32", 23)
    assert not list(tmp_path.iterdir())


def test_inputs_follow_the_features_schema() -> None:
    every = set(schema_of(FeatureBatch)) | set(RECYCLED)
    small, bare = CONFIGS["small"](), CONFIGS["bare"]()
    assert set(input_schema(small)) == every - set(CHAIN_FIELDS)
    assert set(input_schema(bare)) == {name for name in every if not name.startswith("template_")}
    assert ("pae" in output_schema(small), "pae" in output_schema(bare)) == (True, False)
    assert border_schema(small).keys() >= input_schema(small).keys() | output_schema(small).keys()
