"""The ONNX file is the network: same numbers at every size, its weights under their names, nothing else in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from foldline.data_store.config import FeatureConfig
from foldline.data_store.featurize import inference_cycles
from foldline.data_store.types import ChainRecord, FeatureBatch, schema_of
from foldline.export.graph import CHAIN_FIELDS, RECYCLED, feeds_of, input_schema, output_schema, pad_feeds, sizes_of
from foldline.export.onnx import export_onnx, initialisers
from foldline.export.runners import OnnxRuntimeRunner, TorchRunner, fold_cycles
from foldline.model.alphafold import AlphaFold
from foldline.tests.export.cases import CONFIGS, with_templates

UNUSED_HEADS = ("heads.masked_msa.", "heads.experimentally_resolved.")
SIZES = [("1ajj_A", 8, 16, 2), ("1ajj_A", 1, 1, 0), ("2hba_A", 5, 1, 1), ("2hba_A", 8, 16, 0)]  # chain, MSA clusters, extra rows, templates


@pytest.mark.parametrize(("name", "clusters", "extra", "templates"), SIZES)
def test_parity_over_sizes_and_recycling(
    traced: tuple[AlphaFold, Path], records: dict[str, ChainRecord], name: str, clusters: int, extra: int, templates: int
) -> None:
    model, path = traced
    features = FeatureConfig(max_msa_clusters=clusters, max_extra_msa=extra, max_templates=templates)
    cycles = inference_cycles(with_templates(records[name], 2), features, 0, 3)
    sizes = sizes_of(feeds_of(cycles[0], model.config, None), input_schema(model.config))
    assert (sizes["N_res"], sizes["N_clust"]) == (len(records[name].sequence), clusters)
    ours = fold_cycles(TorchRunner(model), cycles)
    theirs = fold_cycles(OnnxRuntimeRunner(path, model.config, 1), cycles)
    assert list(ours) == list(theirs) == list(output_schema(model.config))
    for key, value in ours.items():
        np.testing.assert_allclose(theirs[key], value, rtol=1e-4, atol=2e-3 if key in ("positions", "next_x") else 5e-4, err_msg=key)
    first = fold_cycles(TorchRunner(model), cycles[:1])
    assert np.abs(first["positions"] - ours["positions"]).max() > 0.1, "recycling changed nothing: it was not tested"


def test_padding_changes_nothing_real(traced: tuple[AlphaFold, Path], records: dict[str, ChainRecord]) -> None:
    model, path = traced
    runner = OnnxRuntimeRunner(path, model.config, 1)
    (batch,) = inference_cycles(with_templates(records["1ajj_A"], 1), FeatureConfig(max_msa_clusters=6, max_extra_msa=9), 0, 1)
    feeds = feeds_of(batch, model.config, None)
    sizes = {name: size + 3 for name, size in sizes_of(feeds, input_schema(model.config)).items()}
    padded = pad_feeds(feeds, input_schema(model.config), sizes)
    assert sizes_of(padded, input_schema(model.config)) == sizes
    plain, longer = runner.run(feeds), runner.run(padded)
    n = len(batch.aatype)
    np.testing.assert_allclose(longer["positions"][:n], plain["positions"], atol=2e-3)
    np.testing.assert_allclose(longer["next_z"][:n, :n], plain["next_z"], atol=5e-4)
    padded["seq_mask"][:] = 1
    assert np.abs(runner.run(padded)["positions"][:n] - plain["positions"]).max() > 0.01, "the masks are not what holds the padding off"


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
