"""Weights of stripped engines: one file for all plans, taken from the graphs; a refit exchanges every parameter and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from foldline.errors import FoldlineError
from foldline.export.graphs import graph_path
from foldline.export.stages import stages
from foldline.export.tensorrt import refit
from foldline.export.tensorrt.backend import load, new_logger
from foldline.export.tensorrt.builder import parse
from foldline.export.tensorrt.identity import file_sha256, identity_of
from foldline.export.tensorrt.weights import WEIGHTS_FILE, assign, exchanged, graph_constants, write_constants
from foldline.model.alphafold import AlphaFold
from foldline.model.weights import read_weights, save_weights
from foldline.tests.export import cases

Graphs = Callable[[str, str], tuple[AlphaFold, Path]]
PRECISIONS = ("fp32", "bf16", "fp16")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_file_holds_every_constant_of_every_graph(graphs_of: Graphs, tmp_path: Path, precision: str) -> None:
    model, folder = graphs_of("bare", precision)
    names = [stage.name for stage in stages(model.config)]
    counts = write_constants(folder, names, tmp_path)
    found, _ = read_weights(tmp_path / WEIGHTS_FILE)
    parameters = dict(model.named_parameters())
    shared = {name for name in found if ":" not in name}
    assert shared <= set(parameters)
    assert {"evoformer", "structure"} <= set(counts)
    assert sum(counts.values()) == len(shared)  # no parameter belongs to two stages
    for name in shared:
        assert found[name].shape == parameters[name].shape
        torch.testing.assert_close(found[name].float(), parameters[name].detach(), rtol=1e-2 if precision != "fp32" else 0, atol=1e-3)
    half = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert found["evoformer.blocks.0.row_attention.attention.linear_q.weight"].dtype == half
    graph = onnx.load(graph_path(folder, "evoformer")).graph
    constants = [node.output[0] for node in graph.node if node.op_type == "Constant"]
    assert constants
    assert {f"evoformer:{name}" for name in constants} <= set(found)
    assert not [name for name, value in found.items() if value.dtype == torch.float64], "engines have no float64"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrt_knows_every_parameter_by_its_name(graphs_of: Graphs, precision: str) -> None:
    """What its parser makes of the graphs can be refitted by parameter names, in every precision."""
    pytest.importorskip("tensorrt_rtx", reason="the package tensorrt_rtx (extra [tensorrt-rtx]) is not installed")
    trt = load("tensorrt_rtx")
    model, folder = graphs_of("bare", precision)
    for stage in stages(model.config):
        _, network = parse(trt, "tensorrt_rtx", graph_path(folder, stage.name), new_logger(trt))
        parameters, constants = graph_constants(graph_path(folder, stage.name))
        assert parameters
        assert [name for name in parameters if not network.mark_weights_refittable(name)] == []
        floats = [name for name, value in constants.items() if value.is_floating_point() and value.numel() > 1]
        assert [name for name in floats if not network.mark_weights_refittable(name)] == []
        assert not network.mark_weights_refittable("a name that is not there")


def engine_folder(folder: Path, graphs: Path, model: AlphaFold, mode: str = "strip") -> dict[str, object]:
    """What a build in this mode leaves, with plans that only a GPU could make standing in as bytes: a refit copies them unread."""
    folder.mkdir()
    names = [stage.name for stage in stages(model.config)]
    plans = {"64": {name: {"file": f"{name}-64.plan", "bytes": 9, "seconds": 1.0} for name in names}}
    for name in names:
        (folder / f"{name}-64.plan").write_bytes(b"plan " + name.encode())
    facts: dict[str, object] = {
        "backend": "tensorrt", "version": "11.4", "precision": "bf16", "mode": mode, "weights": "a" * 64, "profiles": [], "plans": plans,
        "architecture": {"compute_capabilities": ["9.0"], "name": None}, "onnx": dict.fromkeys(names, "b" * 64),
        "parameters": write_constants(graphs, names, folder),
    }  # fmt: skip
    return facts | {"identity": identity_of(facts)}


def test_a_refit_exchanges_the_parameters_and_nothing_else(graphs_of: Graphs, tmp_path: Path) -> None:
    model, graphs = graphs_of("bare", "bf16")
    facts = engine_folder(tmp_path / "old", graphs, model)
    other = cases.model_of(model.config, seed=1)
    save_weights(tmp_path / "new.safetensors", other.state_dict(), {"step": "9"})
    sha = file_sha256(tmp_path / "new.safetensors")
    new = refit(tmp_path / "old", facts, tmp_path / "new.safetensors", tmp_path / "out", sha)
    assert new["weights"] == sha
    assert new["identity"] == identity_of(new) != facts["identity"]
    assert {key for key in new if new[key] != facts[key]} == {"weights", "identity"}
    json.dumps(new)
    before, after = read_weights(tmp_path / "old" / WEIGHTS_FILE)[0], read_weights(tmp_path / "out" / WEIGHTS_FILE)[0]
    assert list(after) == list(before)
    wanted = dict(other.named_parameters())
    for name, value in after.items():
        assert value.dtype == before[name].dtype
        expected = before[name] if ":" in name else wanted[name].detach().to(value.dtype)
        assert torch.equal(value, expected), name
    assert any(not torch.equal(after[name], before[name]) for name in after)
    for plan in (tmp_path / "old").glob("*.plan"):
        assert (tmp_path / "out" / plan.name).read_bytes() == plan.read_bytes()


@pytest.mark.parametrize("mode", ["fixed", "strip-identical"])
def test_weights_that_were_built_in_cannot_be_exchanged(graphs_of: Graphs, tmp_path: Path, mode: str) -> None:
    model, graphs = graphs_of("bare", "bf16")
    facts = engine_folder(tmp_path / "old", graphs, model, mode)
    with pytest.raises(FoldlineError, match=rf"weights mode '{mode}'.*mode 'strip'.*or build it again"):
        refit(tmp_path / "old", facts, tmp_path / "new.safetensors", tmp_path / "out", "0" * 64)
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    current = {
        "a.weight": torch.zeros(2, 3), "b.bias": torch.zeros(4, dtype=torch.float16), "heads:table": torch.ones(5),
    }  # fmt: skip
    new = {"a.weight": torch.ones(2, 3), "b.bias": torch.ones(4), "masked_msa.weight": torch.ones(1)}
    done = exchanged(current, new, "x.safetensors")
    assert list(done) == list(current)
    assert torch.equal(done["heads:table"], current["heads:table"])
    with pytest.raises(FoldlineError, match=r"x\.safetensors does not fit.*1 missing: b\.bias; 1 misshapen: a\.weight is 3x2.*has 2x3"):
        exchanged(current, {"a.weight": torch.ones(3, 2)}, "x.safetensors")
    with pytest.raises(FoldlineError, match=r"values of b\.bias are not finite in the engine's type \(torch\.float16\)"):
        exchanged(current, new | {"b.bias": torch.full((4,), 1e6)}, "x.safetensors")
    many = {f"p{i}": torch.zeros(1) for i in range(9)}
    with pytest.raises(FoldlineError, match=r"9 missing: p0, p1, p2, p3, p4 and 4 more"):
        exchanged(many, {}, "x.safetensors")


def test_a_plan_is_given_what_it_asks_for_or_refused() -> None:
    values = {"w": torch.zeros(2, 3), "b": torch.zeros(3), "embed:scale": torch.ones(1), "heads:scale": torch.zeros(1)}
    asked = {"w": (torch.float32, 6), "b": (torch.float32, 3), "scale": (torch.float32, 1), "made by the builder": (torch.float32, 8)}
    taken = assign(asked, values, "embed", 2, "embed.plan")
    assert set(taken) == {"w", "b", "scale"}
    assert taken["scale"].item() == 1, "a constant of this stage, not of another"
    with pytest.raises(FoldlineError, match=r"stage 'embed' wants 4 of torch\.float32 for 'b', the weights have 3"):
        assign(asked | {"b": (torch.float32, 4)}, values, "embed", 2, "embed.plan")
    with pytest.raises(FoldlineError, match=r"wants 3 of torch\.bfloat16 for 'b', the weights have 3 of torch\.float32"):
        assign(asked | {"b": (torch.bfloat16, 3)}, values, "embed", 2, "embed.plan")
    del asked["b"]
    with pytest.raises(FoldlineError, match="stage 'embed' has 2 parameters, and the plan takes 1 of them"):
        assign(asked, values, "embed", 2, "embed.plan")


def test_constants_are_in_types_that_engines_have(tmp_path: Path) -> None:
    """Parsers make float32 of float64; bfloat16 has no type in numpy."""
    table = onnx.helper.make_tensor("table", onnx.TensorProto.BFLOAT16, [2], b"\x80\x3f\x00\x40", raw=True)
    scale = onnx.numpy_helper.from_array(np.array([0.5, 3.0]), "scale")
    nodes = [onnx.helper.make_node("Constant", [], [value.name], value=value) for value in (table, scale)]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "constants", [], [])), tmp_path / "constants.onnx")
    parameters, constants = graph_constants(tmp_path / "constants.onnx")
    assert parameters == {}
    assert torch.equal(constants["table"], torch.tensor([1.0, 2.0], dtype=torch.bfloat16))
    assert (constants["scale"].dtype, constants["scale"].tolist()) == (torch.float32, [0.5, 3.0])
