"""The ONNX file is the network: its weights under their names, nothing else in it. That its numbers are the network's: see test_runners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from foldline.data_store.types import FeatureBatch, schema_of
from foldline.export.graph import CHAIN_FIELDS, RECYCLED, input_schema, output_schema
from foldline.export.onnx import export_onnx, initialisers
from foldline.model.alphafold import AlphaFold
from foldline.tests.export.cases import CONFIGS

UNUSED_HEADS = ("heads.masked_msa.", "heads.experimentally_resolved.")


def test_weights_stand_under_their_names(traced: tuple[AlphaFold, Path]) -> None:
    model, path = traced
    parameters = {name: p.detach().numpy() for name, p in model.named_parameters() if not name.startswith(UNUSED_HEADS)}
    found = initialisers(path)
    assert set(parameters) == {name for name in found if name in dict(model.named_parameters())}
    for name, value in parameters.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_fresh_network_differs_in_its_initialisers_only(bare: tuple[AlphaFold, Path], tmp_path: Path) -> None:
    """It has hundreds of equal tensors, which tracers like to merge; refitting one of them would then change others."""
    model, path = bare
    export_onnx(AlphaFold(model.config), tmp_path / "m.onnx")
    first, second = onnx.load(path).graph, onnx.load(tmp_path / "m.onnx").graph
    assert [node.SerializeToString() for node in first.node] == [node.SerializeToString() for node in second.node]
    assert [(t.name, list(t.dims)) for t in first.initializer] == [(t.name, list(t.dims)) for t in second.initializer]
    assert {t.name for t in second.initializer if not numpy_helper.to_array(t).any()}, "no zero tensor: nothing could be merged"


def test_lengths_are_dynamic_and_named(traced: tuple[AlphaFold, Path]) -> None:
    model, path = traced
    graph = onnx.load(path).graph
    for values, schema in ((graph.input, input_schema(model.config)), (graph.output, output_schema(model.config))):
        shapes = {v.name: tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
        assert shapes == {name: field.dims for name, field in schema.items()}


def test_inputs_follow_the_features_schema() -> None:
    every = set(schema_of(FeatureBatch)) | set(RECYCLED)
    small, bare = CONFIGS["small"](), CONFIGS["bare"]()
    assert set(input_schema(small)) == every - set(CHAIN_FIELDS)
    assert set(input_schema(bare)) == {name for name in every if not name.startswith("template_")}
    assert ("pae" in output_schema(small), "pae" in output_schema(bare)) == (True, False)
