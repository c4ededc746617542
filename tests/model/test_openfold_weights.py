"""OpenFold's parameter files: every layout in and out, held against DeepMind's arrays, and files that are refused."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foldline.cli import main
from foldline.errors import FoldlineError
from foldline.model.config import ModelConfig, tiny
from foldline.model.convert.checkpoint import read_checkpoint, write_checkpoint
from foldline.model.convert.deepmind import deepmind_shapes, empty_state, load_deepmind
from foldline.model.convert.openfold import Layout, load_openfold, name_table, openfold_shapes, to_openfold
from foldline.model.weights import read_weights, save_weights
from foldline.tests.reference.folder import REFERENCE

LAYOUTS = [Layout(older, fused) for older in (False, True) for fused in (False, True)]
# Names from OpenFold's published weights (older) and its present model (newer), for each part that was renamed.
RENAMED = {
    "evoformer.blocks.0.core.msa_transition.linear_1.weight": "evoformer.blocks.0.msa_transition.linear_1.weight",
    "evoformer.blocks.1.core.outer_product_mean.linear_out.bias": "evoformer.blocks.1.outer_product_mean.linear_out.bias",
    "evoformer.blocks.0.core.tri_mul_in.linear_a_p.weight": "evoformer.blocks.0.pair_stack.tri_mul_in.linear_a_p.weight",
    "extra_msa_stack.blocks.0.core.tri_att_end.mha.linear_g.bias": "extra_msa_stack.blocks.0.pair_stack.tri_att_end.mha.linear_g.bias",
    "extra_msa_stack.blocks.0.core.pair_transition.linear_2.bias": "extra_msa_stack.blocks.0.pair_stack.pair_transition.linear_2.bias",
    "template_angle_embedder.linear_1.weight": "template_embedder.template_single_embedder.linear_1.weight",
    "template_pair_embedder.linear.weight": "template_embedder.template_pair_embedder.linear.weight",
    "template_pair_stack.blocks.0.tri_att_start.linear.weight": (
        "template_embedder.template_pair_stack.blocks.0.tri_att_start.linear.weight"
    ),
    "template_pair_stack.layer_norm.bias": "template_embedder.template_pair_stack.layer_norm.bias",
    "template_pointwise_att.mha.linear_o.bias": "template_embedder.template_pointwise_att.mha.linear_o.bias",
    "structure_module.ipa.linear_q_points.weight": "structure_module.ipa.linear_q_points.linear.weight",
    "structure_module.ipa.linear_kv_points.bias": "structure_module.ipa.linear_kv_points.linear.bias",
}
KEPT = (
    "input_embedder.linear_tf_z_i.weight",
    "recycling_embedder.linear.weight",
    "evoformer.blocks.0.msa_att_row.linear_z.weight",
    "evoformer.blocks.0.msa_att_col._msa_att.mha.linear_q.weight",
    "extra_msa_stack.blocks.0.msa_att_col.global_attention.linear_k.weight",
    "structure_module.transition.layers.0.linear_3.bias",
    "structure_module.angle_resnet.layers.1.linear_2.weight",
    "structure_module.bb_update.linear.weight",
    "aux_heads.plddt.linear_3.weight",
    "aux_heads.tm.linear.bias",
)
# Every module with parameters in OpenFold's present model; of the blocks of a stack, one.
ATTENTION = "linear_q linear_k linear_v linear_o linear_g"
PAIR = """
tri_mul_out: layer_norm_in layer_norm_out linear_a_p linear_b_p linear_a_g linear_b_g linear_z linear_g
tri_mul_in: layer_norm_in layer_norm_out linear_a_p linear_b_p linear_a_g linear_b_g linear_z linear_g
tri_att_start: layer_norm linear
tri_att_end: layer_norm linear
tri_att_start.mha: linear_q linear_k linear_v linear_o linear_g
tri_att_end.mha: linear_q linear_k linear_v linear_o linear_g
pair_transition: layer_norm linear_1 linear_2
"""
MODULES = f"""
input_embedder: linear_tf_z_i linear_tf_z_j linear_tf_m linear_msa_m linear_relpos
recycling_embedder: linear layer_norm_m layer_norm_z
extra_msa_embedder: linear
template_embedder.template_single_embedder: linear_1 linear_2
template_embedder.template_pair_embedder: linear
template_embedder.template_pair_stack: layer_norm
template_embedder.template_pointwise_att.mha: linear_q linear_k linear_v linear_o
evoformer: linear
extra_msa_stack.blocks.msa_att_col: layer_norm_m
extra_msa_stack.blocks.msa_att_col.global_attention: {ATTENTION}
evoformer.blocks.msa_att_col._msa_att: layer_norm_m
evoformer.blocks.msa_att_col._msa_att.mha: {ATTENTION}
structure_module: layer_norm_s layer_norm_z linear_in layer_norm_ipa
structure_module.ipa: linear_q linear_kv linear_b linear_out head_weights
structure_module.ipa.linear_q_points: linear
structure_module.ipa.linear_kv_points: linear
structure_module.transition: layer_norm
structure_module.transition.layers: linear_1 linear_2 linear_3
structure_module.bb_update: linear
structure_module.angle_resnet: linear_in linear_initial linear_out
structure_module.angle_resnet.layers: linear_1 linear_2
aux_heads.plddt: layer_norm linear_1 linear_2 linear_3
aux_heads.distogram: linear
aux_heads.masked_msa: linear
aux_heads.experimentally_resolved: linear
aux_heads.tm: linear
"""
BLOCK = f"""
msa_att_row: layer_norm_m layer_norm_z linear_z
msa_att_row.mha: {ATTENTION}
msa_transition: layer_norm linear_1 linear_2
outer_product_mean: layer_norm linear_1 linear_2 linear_out
"""


def modules(text: str, under: str = "") -> set[str]:
    lines = [line.partition(": ") for line in text.split("\n") if line]
    return {f"{under}{scope}.{name}" for scope, _, names in lines for name in names.split()}


def synthetic(layout: Layout) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in sorted(openfold_shapes(tiny(), layout).items())}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return set(ours) == set(theirs) and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("layout", LAYOUTS[1:3])
@pytest.mark.parametrize("preset", ["tiny", "model_1_ptm", "model_3"])
def test_every_parameter_stands_in_exactly_one_row(preset: str, layout: Layout) -> None:
    config = ModelConfig.PRESETS[preset]()
    rows = name_table(config, layout)
    assert Counter(name for row in rows for name in row.ours) == Counter(empty_state(config).keys())
    assert set(Counter(name for row in rows for name in row.theirs).values()) == {1}
    assert Layout.of(openfold_shapes(config, layout)) == layout


@pytest.mark.parametrize(("preset", "expected"), [("model_1_ptm", 93_237_338), ("model_1", 93_229_082), ("model_3", 92_899_674)])
@pytest.mark.parametrize("layout", LAYOUTS[1:3])
def test_the_published_number_of_parameters(preset: str, expected: int, layout: Layout) -> None:
    assert sum(map(math.prod, openfold_shapes(ModelConfig.PRESETS[preset](), layout).values())) == expected
    listing = REFERENCE / "names" / f"{preset}.json"
    if listing.exists():
        assert json.loads(listing.read_text())["num_parameters"] == expected


def test_names_of_both_layouts() -> None:
    older, newer = (set(openfold_shapes(tiny(), Layout(older=is_older))) for is_older in (True, False))
    assert set(RENAMED) <= older - newer
    assert set(RENAMED.values()) <= newer - older
    assert set(KEPT) <= older & newer
    assert not any(name.startswith("template_") for name in openfold_shapes(ModelConfig.PRESETS["model_3"](), Layout(older=True)))
    a, b = synthetic(Layout(older=True)), synthetic(Layout())
    b |= {RENAMED[name]: a[name] for name in RENAMED}
    ours, again = load_openfold(a, tiny()), to_openfold(load_openfold(b, tiny()), tiny(), Layout(older=True))
    assert all(torch.equal(again[name], a[name]) for name in RENAMED)
    assert same(to_openfold(ours, tiny(), Layout(older=True)), a)


def test_the_modules_are_openfolds() -> None:
    expected = modules(MODULES) | modules(PAIR, "template_embedder.template_pair_stack.blocks.")
    for stack in ("evoformer.blocks.", "extra_msa_stack.blocks."):
        expected |= modules(BLOCK, stack) | modules(PAIR, f"{stack}pair_stack.")
    found = {re.sub(r"\.\d+|\.weight$|\.bias$", "", name) for name in openfold_shapes(tiny())}
    assert found == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_is_bit_equal(layout: Layout) -> None:
    params = synthetic(layout)
    assert same(to_openfold(load_openfold(params, tiny()), tiny(), layout), params)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_deepminds_arrays_become_openfolds(layout: Layout) -> None:
    """What OpenFold makes of DeepMind's arrays, written here as numpy reshapes, one of each kind and every one where an order matters."""
    rng = np.random.default_rng(0)
    flat = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in deepmind_shapes(tiny()).items()}
    theirs = {name: tensor.numpy() for name, tensor in to_openfold(load_deepmind(flat, tiny()), tiny(), layout).items()}
    trunk, block = "alphafold/alphafold_iteration/evoformer", "evoformer.blocks.1"
    fold = "alphafold/alphafold_iteration/structure_module/fold_iteration"
    core, pair = (f"{block}.core", f"{block}.core") if layout.older else (block, f"{block}.pair_stack")
    points = "" if layout.older else ".linear"

    def main_block(name: str) -> np.ndarray:
        return flat[f"{trunk}/evoformer_iteration/{name}"][1]

    def check(name: str, array: np.ndarray) -> None:
        assert np.array_equal(theirs[name], array), name

    row = main_block("msa_row_attention_with_pair_bias/attention//query_w")
    check(f"{block}.msa_att_row.mha.linear_q.weight", row.reshape(len(row), -1).T)
    out = main_block("msa_column_attention/attention//output_w")
    check(f"{block}.msa_att_col._msa_att.mha.linear_o.weight", out.reshape(-1, out.shape[-1]).T)
    gate = main_block("triangle_attention_ending_node/attention//gating_b")
    check(f"{pair}.tri_att_end.mha.linear_g.bias", gate.reshape(-1))
    outer = main_block("outer_product_mean//output_w")
    check(f"{core}.outer_product_mean.linear_out.weight", outer.reshape(-1, outer.shape[-1]).T)
    check(f"{core}.outer_product_mean.linear_1.weight", main_block("outer_product_mean/left_projection//weights").T)
    extra = flat[f"{trunk}/extra_msa_stack/msa_column_global_attention/attention//key_w"][0]
    check("extra_msa_stack.blocks.0.msa_att_col.global_attention.linear_k.weight", extra.T)
    for name, sides in (("out", {"a": "left", "b": "right"}), ("in", {"a": "right", "b": "left"})):
        scope = f"triangle_multiplication_{name}going" if name == "out" else f"triangle_multiplication_{name}coming"
        for kind, theirs_kind in (("p", "projection"), ("g", "gate")):
            edges = {edge: main_block(f"{scope}/{side}_{theirs_kind}//weights").T for edge, side in sides.items()}
            if layout.fused:
                check(f"{pair}.tri_mul_{name}.linear_ab_{kind}.weight", np.concatenate([edges["a"], edges["b"]]))
            else:
                for edge, array in edges.items():
                    check(f"{pair}.tri_mul_{name}.linear_{edge}_{kind}.weight", array)
    attention = f"{fold}/invariant_point_attention"
    check(f"structure_module.ipa.linear_q_points{points}.weight", flat[f"{attention}/q_point_local//weights"].T)
    check(f"structure_module.ipa.linear_kv_points{points}.weight", flat[f"{attention}/kv_point_local//weights"].T)
    check("structure_module.ipa.linear_kv.weight", flat[f"{attention}/kv_scalar//weights"].T)
    check("structure_module.ipa.head_weights", flat[f"{attention}//trainable_point_weights"])
    check("structure_module.transition.layers.0.linear_2.weight", flat[f"{fold}/transition_1//weights"].T)
    check("structure_module.angle_resnet.linear_in.weight", flat[f"{fold}/rigid_sidechain/input_projection//weights"].T)
    check("structure_module.angle_resnet.linear_initial.weight", flat[f"{fold}/rigid_sidechain/input_projection_1//weights"].T)
    check("structure_module.angle_resnet.layers.1.linear_1.weight", flat[f"{fold}/rigid_sidechain/resblock1_1//weights"].T)
    check("input_embedder.linear_tf_z_j.weight", flat[f"{trunk}/right_single//weights"].T)


@pytest.mark.parametrize(
    ("holders", "prefix"),
    [
        ((), "module."),
        ((), "module.model."),
        (("ema", "params"), ""),
        (("params",), ""),
        (("module",), "model."),
        (("state_dict",), "model."),
    ],
)
def test_wrapped_files_are_read(holders: tuple[str, ...], prefix: str, tmp_path: Path) -> None:
    params = synthetic(Layout(older=True))
    content: dict[str, Any] = {prefix + name: tensor for name, tensor in params.items()}
    for holder in reversed(holders):
        content = {holder: content, "decay": 0.999, "step": torch.tensor(3)}
    torch.save(content, tmp_path / "openfold.pt")
    assert same(load_openfold(read_checkpoint(tmp_path / "openfold.pt"), tiny()), load_openfold(params, tiny()))


def test_averaged_parameters_come_before_raw_ones(tmp_path: Path) -> None:
    torch.save({"module": {"raw": torch.zeros(1)}, "ema": {"params": {"averaged": torch.zeros(1)}}}, tmp_path / "both.pt")
    assert list(read_checkpoint(tmp_path / "both.pt")) == ["averaged"]


def test_one_error_lists_all_that_does_not_fit() -> None:
    params = synthetic(Layout())
    first, second, *_ = params
    params["somewhere.else"] = params.pop(first)
    params[second] = params[second][..., None]
    with pytest.raises(FoldlineError) as error:
        load_openfold(params, tiny())
    assert all(part in str(error.value) for part in ("1 unknown: somewhere.else", f"1 missing: {first}", f"1 misshapen: {second}"))
    with pytest.raises(FoldlineError, match="not floating point"):
        load_openfold({name: tensor.long() for name, tensor in synthetic(Layout()).items()}, tiny())


def test_half_precision_is_widened() -> None:
    params = {name: tensor.bfloat16() for name, tensor in synthetic(Layout()).items()}
    state = load_openfold(params, tiny())
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert torch.equal(state["heads.pae.logits.bias"], params["aux_heads.tm.linear.bias"].float())


class Runs:
    """Unpickling this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_python_objects_are_refused_and_never_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "ran"
    torch.save({"params": synthetic(Layout()), "hook": Runs(trace)}, path)
    with pytest.raises(FoldlineError, match=r"it asks for (posix|os|nt)\.mkdir"):
        read_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"not a torch file", b"PK\x03\x04 cut short"])
def test_damaged_files_are_told_as_such(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "openfold.pt"
    path.write_bytes(content)
    with pytest.raises(FoldlineError, match="not a torch file of tensors alone"):
        read_checkpoint(path)
    with pytest.raises(FoldlineError, match="no parameters at"):
        read_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(FoldlineError, match="folder"):
        read_checkpoint(tmp_path)
    for other, words in ((torch.zeros(3), "no named tensors"), ({}, "no named tensors"), ({"a": 1.0}, "a is not a tensor")):
        torch.save(other, path)
        with pytest.raises(FoldlineError, match=words):
            read_checkpoint(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_command_line_there_and_back(layout: Layout, tmp_path: Path) -> None:
    source, weights, back = tmp_path / "openfold.pt", tmp_path / "weights.safetensors", tmp_path / "back.pt"
    write_checkpoint(source, synthetic(layout))
    assert main(["weights", "import", str(source), "--preset", "tiny", "--out", str(weights)]) == 0
    state, metadata = read_weights(weights)
    assert metadata["source"] == "openfold"
    assert same(state, load_openfold(synthetic(layout), tiny()))
    assert main(["weights", "export", str(weights), "--preset", "tiny", "--format", "openfold", "--out", str(back)]) == 0
    assert same(read_checkpoint(back), synthetic(layout))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.pt", "openfold.pt", "weights.safetensors"]


def test_the_files_ending_chooses_the_format(tmp_path: Path) -> None:
    weights, npz, pt = tmp_path / "w.safetensors", tmp_path / "params.npz", tmp_path / "params.pt"
    save_weights(weights, load_openfold(synthetic(Layout()), tiny()))
    for out in (npz, pt):
        assert main(["weights", "export", str(weights), "--preset", "tiny", "--out", str(out)]) == 0
    with np.load(npz) as file:
        assert set(file.files) == set(deepmind_shapes(tiny()))
    assert same(read_checkpoint(pt), synthetic(Layout()))


def test_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "openfold.pt", tmp_path / "weights.safetensors"
    write_checkpoint(source, synthetic(Layout()))
    wrong = tmp_path / "npz.pt"
    np.savez(wrong.open("wb"), a=np.zeros(3))
    for path, arguments, words in (
        (source, ["--preset", "small"], "misshapen"),
        (source, ["--preset", "model_3"], "unknown"),
        (source, ["--preset", "tiny", "--format", "deepmind"], "not a readable npz"),
        (wrong, ["--preset", "tiny"], "not a torch file"),
        (tmp_path / "absent.pt", ["--preset", "tiny"], "no parameters at"),
    ):
        assert main(["weights", "import", str(path), *arguments, "--out", str(out)]) == 2
        assert words in capsys.readouterr().err
        assert not out.exists()
