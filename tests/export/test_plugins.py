"""Graphs with cuEquivariance's nodes: what stands in them, that under the nodes' definitions they are the plain graphs; their engines."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jaxtyping
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from foldline.data_store.types import ChainRecord
from foldline.errors import FoldlineError
from foldline.export.bundle import Bundle
from foldline.export.command import order_of
from foldline.export.config import ExportConfig
from foldline.export.core import Core, copy_own_graphs, graph_hashes
from foldline.export.graph import input_schema, output_schema, pad_feeds, sizes_of
from foldline.export.graph_types import value_types
from foldline.export.graphs import OPSET, graph_path, write_graphs
from foldline.export.kinds import Order, find_kind, kinds, settle
from foldline.export.pieces import stage_pieces
from foldline.export.plugins import ATTENTION, DOMAIN, MULTIPLICATION, plugin_nodes
from foldline.export.stages import stages
from foldline.export.stitching import Stitcher
from foldline.export.tensorrt import plugins as packages
from foldline.export.tensorrt.identity import check, identity_of
from foldline.export.weight_file import WEIGHTS_FILE
from foldline.model.alphafold import AlphaFold
from foldline.model.triangle import TriangleAttention, TriangleMultiplication
from foldline.tests.export.cases import CONFIGS, model_of
from foldline.tests.export.plugin_definitions import with_definitions
from foldline.tests.export.stage_chain import onnxruntime_stages, passes, real_feeds

GraphsOf = Callable[[str, str], tuple[AlphaFold, Path]]
Graphs = dict[str, onnx.ModelProto]  # by stage
T = TypeVar("T")
CUEQUIVARIANCE = "cuequivariance"
TYPES = {"fp32": TensorProto.FLOAT, "bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16}
# Nodes by stage of the network "small": two of each per block; templates have 16 hidden channels, which the multiplication does not take.
BOTH, ATTENTION_ALONE = {ATTENTION: 2, MULTIPLICATION: 2}, {ATTENTION: 2}
EXPECTED = {
    "fp32": {"templates": ATTENTION_ALONE, "extra": BOTH, "evoformer": BOTH},
    "bf16": {"evoformer": BOTH},  # in half precision one stage is traced
    "fp16": {"evoformer": ATTENTION_ALONE},
}


@pytest.fixture(scope="module")
def variant(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Core, Path]:
    """The core of a bundle with the network "small", and the folder of an engine that has its graphs with plugin nodes."""
    bundle = tmp_path_factory.mktemp("variant") / "bundle"
    shutil.copytree(exported, bundle)
    core, engine = Core.of(Bundle.open(bundle)), bundle / "engines" / "draft"
    engine.mkdir()
    without_shape_checks(lambda: core.need_graphs("fp32", engine, CUEQUIVARIANCE))
    return core, engine


@pytest.fixture(scope="module")
def plugged(variant: tuple[Core, Path]) -> Callable[[str], Graphs]:
    """The stages of "small" that ``EXPECTED`` names, with plugin nodes, by precision, each made once."""
    core, engine = variant

    @cache
    def make(precision: str) -> Graphs:
        if precision == "fp32":
            return {name: onnx.load(graph_path(engine / "graphs", name), load_external_data=False) for name in EXPECTED[precision]}
        model = core.network()
        pieces, stitcher = stage_pieces(model), Stitcher(model, precision, OPSET, plugins=True)
        chosen = [stage for stage in stages(model.config) if stage.name in EXPECTED[precision]]
        return without_shape_checks(lambda: {stage.name: stitcher.stage(stage, pieces[stage.name]) for stage in chosen})

    return make


def without_shape_checks(make: Callable[[], T]) -> T:
    """On traced tensors the tests' shape checks cost more than the trace."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        return make()
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def plugin_nodes_of(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if node.domain]


def described(proto: onnx.ModelProto) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in proto.graph.initializer}


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


@pytest.mark.parametrize("precision", TYPES)
def test_only_triangle_updates_change_and_no_weight(precision: str, plugged: Callable[[str], Graphs], graphs_of: GraphsOf) -> None:
    _, plain = graphs_of("small", precision)
    counted = {}
    for stage, proto in plugged(precision).items():
        other = onnx.load(graph_path(plain, stage), load_external_data=False)
        assert described(proto) == described(other)
        assert (proto.graph.input, proto.graph.output) == (other.graph.input, other.graph.output)
        assert {node.domain for node in plugin_nodes_of(proto)} == {DOMAIN}
        counted[stage] = dict(Counter(node.op_type for node in plugin_nodes_of(proto)))
    assert counted == EXPECTED[precision]


@pytest.mark.parametrize("precision", TYPES)
def test_nodes_have_the_types_and_attributes_of_the_plugins(precision: str, plugged: Callable[[str], Graphs]) -> None:
    factor, wide = TYPES[precision], TensorProto.FLOAT
    directions = Counter[bytes]()
    for proto in plugged(precision).values():
        types = value_types(proto)
        for node in plugin_nodes_of(proto):
            found, given = [types[name] for name in (*node.input, *node.output)], attributes(node)
            assert given.pop("plugin_namespace") == DOMAIN.encode()
            if node.op_type == ATTENTION:
                assert found == [factor, factor, factor, wide, TensorProto.BOOL, factor]
                assert given == {"scale": pytest.approx(8**-0.5)}
                continue
            assert found == [factor, factor, wide, wide, *[factor] * 4, wide, wide, *[factor] * 4, factor]
            directions[given.pop("direction")] += 1
            assert given == {"eps": pytest.approx(1e-5), "precision": 3 if precision == "fp32" else -1, "valid_optional_inputs": 31}
    blocks = sum(nodes.get(MULTIPLICATION, 0) for nodes in EXPECTED[precision].values()) // 2
    assert directions == ({b"outgoing": blocks, b"incoming": blocks} if blocks else {})


def test_under_their_definitions_they_are_the_plain_graphs(
    variant: tuple[Core, Path], records: dict[str, ChainRecord], tmp_path: Path
) -> None:
    """Real features, two passes, templates, rows and residues of padding: scale, mask, layout and packing are right."""
    core, engine = variant
    model, folder = core.network(), tmp_path / "defined"
    shutil.copytree(engine / "graphs", folder)
    with_definitions(folder)
    feeds = real_feeds(records["1ajj_A"], model.config, 6, 9, 2)
    schema = input_schema(model.config)
    sizes = {name: size + 3 for name, size in sizes_of(feeds, schema).items()}
    feeds = pad_feeds(feeds, schema, sizes)
    feeds["seq_mask"][5] = 0  # a gap inside: a mask that is no prefix
    ours, theirs = (passes(model.config, feeds, onnxruntime_stages(where), 2) for where in (core.path / "graphs" / "fp32", folder))
    for name in ("templated_z", "extra_z", "next_z", *output_schema(model.config)):
        assert np.isfinite(theirs[name]).all()
        np.testing.assert_allclose(
            theirs[name], ours[name], rtol=1e-4, atol=2e-4 if name in ("positions", "next_x") else 2e-5, err_msg=name
        )


def test_the_network_is_itself_again_after_a_trace() -> None:
    model = model_of(CONFIGS["bare"]())
    block = model.evoformer.blocks[0]
    parts = [part for part in block.modules() if isinstance(part, TriangleAttention | TriangleMultiplication)]
    before = [part.forward.__func__ for part in parts]
    with plugin_nodes(block, torch.float32):
        assert sum("forward" in part.__dict__ for part in block.modules()) == 4
    assert not any("forward" in part.__dict__ for part in block.modules())
    assert [part.forward.__func__ for part in parts] == before


def test_a_network_without_a_fitting_update_is_an_error(tmp_path: Path) -> None:
    config = CONFIGS["bare"]()
    narrow = replace(config.evoformer, c_hidden_tri_att=6, c_hidden_tri_mul=24)
    config = replace(config, evoformer=narrow, extra_msa=replace(config.extra_msa, c_hidden_tri_att=6, c_hidden_tri_mul=24))
    with pytest.raises(FoldlineError, match=r"export\.plugins = 'cuequivariance' takes no triangle update.*export\.plugins = 'none'"):
        write_graphs(model_of(config), tmp_path, "fp32", plugins=CUEQUIVARIANCE)
    assert list(tmp_path.iterdir()) == []


def test_the_variant_stands_beside_the_core_and_can_be_refitted(variant: tuple[Core, Path], exported: Path, tmp_path: Path) -> None:
    core, engine = variant
    folder, plain = core.graphs("fp32", engine), core.path / "graphs" / "fp32"
    assert folder == engine / "graphs"
    assert (folder / WEIGHTS_FILE).read_bytes() == (plain / WEIGHTS_FILE).read_bytes()
    assert {name for name, digest in graph_hashes(folder).items() if digest != graph_hashes(plain)[name]} == set(EXPECTED["fp32"])
    for stage in EXPECTED["fp32"]:
        onnx.checker.check_model(str(graph_path(folder, stage)), full_check=True)
    assert Bundle.open(core.path).identity == Bundle.open(exported).identity, "the core is another"
    copy_own_graphs(core, engine, tmp_path)
    assert graph_hashes(tmp_path / "graphs") == graph_hashes(folder)
    assert (tmp_path / "graphs" / WEIGHTS_FILE).read_bytes() == (plain / WEIGHTS_FILE).read_bytes()


def test_every_other_kind_refuses_plugins() -> None:
    for name in kinds():
        if name != "tensorrt":
            with pytest.raises(
                FoldlineError, match=rf"export\.plugins = 'cuequivariance': engine '{name}' takes plain graphs alone.*'tensorrt'"
            ):
                settle(find_kind(name), Order(plugins=CUEQUIVARIANCE))
    assert order_of(ExportConfig(plugins=CUEQUIVARIANCE)).plugins == CUEQUIVARIANCE
    assert order_of(ExportConfig()) == Order()
    with pytest.raises(FoldlineError, match="'cuda-kernels' is none of none, cuequivariance"):
        ExportConfig(plugins="cuda-kernels")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("no", name="cuequivariance_ops_torch"), r"not installed; run: pip install 'foldline\[cuequivariance\]'"),
        (ModuleNotFoundError("no", name="tensorrt"), "needs the package 'tensorrt', which is not installed"),
        (ImportError("libcuda.so.1: cannot open shared object file"), r"does not load: libcuda\.so\.1.*needs an NVIDIA driver"),
    ],
)
def test_a_package_that_is_missing_or_broken_is_told(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(packages.importlib, "import_module", fail)
    monkeypatch.setenv(*packages.FALLBACK)
    with pytest.raises(FoldlineError, match=rf"export\.plugins = 'cuequivariance'.*{words}"):
        packages.register_plugins()


FACTS: Mapping[str, Any] = dict.fromkeys(("backend", "version", "architecture", "precision", "mode", "weights", "onnx", "profiles"), "x")


def test_identity_depends_on_the_plugins_version() -> None:
    old, new = (FACTS | {"plugins": {"cuequivariance_ops_torch": version}} for version in ("0.13.0", "0.14.0"))
    assert len({identity_of(facts) for facts in (FACTS, old, new)}) == 3
    built = old | {"identity": identity_of(old)}
    check(built, {"plugins": old["plugins"]}, "here")
    with pytest.raises(FoldlineError, match=r"the plugins' version was .*0\.13\.0.* it is .*0\.14\.0"):
        check(built, {"plugins": new["plugins"]}, "here")
    assert packages.plugins_here(FACTS) == {}, "an engine without plugins asked for their package"
