"""The trunk's modules against DeepMind's, one by one, in float32 and float64 (modules/*.npz)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foldline.model.all_atom import pseudo_beta
from foldline.model.config import EmbedderConfig, EvoformerConfig, TemplateConfig
from foldline.model.convert import deepmind as table
from foldline.model.embedders import ExtraMSAEmbedder, InputEmbedder, RecyclingEmbedder
from foldline.model.evoformer import EvoformerBlock, EvoformerStack, ExtraMSAStack
from foldline.model.msa_attention import MSAColumnAttention, MSAColumnGlobalAttention, MSARowAttentionWithPairBias
from foldline.model.outer_product import OuterProductMean
from foldline.model.outputs import Recycled
from foldline.model.primitives import Attention, GlobalAttention
from foldline.model.templates import SingleTemplateEmbedding, TemplatePairEmbedder, TemplatePairStack
from foldline.model.transition import Transition
from foldline.model.triangle import TriangleAttention, TriangleMultiplication
from foldline.tests.reference.folder import BUNDLED
from foldline.tests.reference.module_cases import REFERENCE, Builder, Case, Outputs, assert_close, builder_of, case, claimed


def padded_attention(c: Case) -> Case:
    """The case with equally wide keys and values: ours have one width; columns of zeros change nothing but the scale."""
    key, value = c.width("key_w", -1), c.width("value_w", -1)
    width = max(key, value)
    params = dict(c.params)
    for name, a in c.params.items():
        if name.endswith(("query_w", "key_w", "value_w", "gating_w", "gating_b")):
            params[name] = F.pad(a, (0, width - a.shape[-1])) * ((width / key) ** 0.5 if name.endswith("query_w") else 1.0)
        elif name.endswith("output_w"):
            params[name] = F.pad(a, (0, 0, 0, width - a.shape[-2]))
    return replace(c, params=params)


def attention(c: Case) -> Outputs:
    c = padded_attention(c)
    heads, gating = c.config["num_head"], c.config["gating"]
    c_q, c_kv, c_out = c.width("query_w", 0), c.width("key_w", 0), c.width("output_b", 0)
    module = c.load(
        Attention(c_q, c_kv, c.width("key_w", -1), heads, gating=gating, c_out=c_out), table._attention("attention", "x", heads, gating)
    )
    return {"": module(c.inputs["q_data"], c.inputs["m_data"], c.inputs["mask"], c.inputs.get("nonbatched_bias"))}


def global_attention(c: Case) -> Outputs:
    heads = c.config["num_head"]
    rows = table._attention("global_attention", "x", heads, shared_kv=True)
    module = c.load(GlobalAttention(c.width("output_b", 0), c.width("key_w", -1), heads), rows)
    assert torch.equal(c.inputs["q_data"], c.inputs["m_data"]), "our global attention has one input"
    return {"": module(c.inputs["q_data"], c.inputs["q_mask"][..., 0])}


def row_attention(c: Case) -> Outputs:
    m, z, heads = c.inputs["msa_act"], c.inputs["pair_act"], c.config["num_head"]
    name = "msa_row_attention_with_pair_bias"
    rows = [
        *table._norm(f"{name}/query_norm", "x.layer_norm_m"),
        *table._norm(f"{name}/feat_2d_norm", "x.layer_norm_z"),
        table._row(f"{name}//feat_2d_weights", "i h", "x.linear_bias.weight", "h i"),
        *table._attention(f"{name}/attention", "x.attention", heads),
    ]
    module = c.load(MSARowAttentionWithPairBias(m.shape[-1], z.shape[-1], c.width("key_w", -1), heads), rows)
    return {"": module(m, z, c.inputs["msa_mask"])}


def column_attention(c: Case) -> Outputs:
    m, heads, is_global = c.inputs["msa_act"], c.config["num_head"], "global" in c.name
    name = "msa_column_global_attention" if is_global else "msa_column_attention"
    rows = [
        *table._norm(f"{name}/query_norm", "x.layer_norm_m"),
        *table._attention(f"{name}/attention", "x.attention", heads, shared_kv=is_global),
    ]
    cls = MSAColumnGlobalAttention if is_global else MSAColumnAttention
    return {"": c.load(cls(m.shape[-1], c.width("key_w", -1), heads), rows)(m, c.inputs["msa_mask"])}


def triangle_attention(c: Case) -> Outputs:
    z, heads = c.inputs["pair_act"], c.config["num_head"]
    node: Any = "starting" if c.config["orientation"] == "per_row" else "ending"
    module = TriangleAttention(z.shape[-1], c.width("key_w", -1), heads, node)
    return {"": c.load(module, table._triangle_attention("triangle_attention", "x", heads))(z, c.inputs["pair_mask"])}


def triangle_multiplication(c: Case) -> Outputs:
    z = c.inputs["act"]
    direction: Any = {"ikc,jkc->ijc": "outgoing", "kjc,kic->ijc": "incoming"}[c.config["equation"]]
    left_right = ("a", "b") if direction == "outgoing" else ("b", "a")
    rows = table._triangle_multiplication("triangle_multiplication", left_right, c.config["fuse_projection_weights"])
    rows = [replace(row, ours=tuple(name.replace("triangle_multiplication.", "x.") for name in row.ours)) for row in rows]
    module = TriangleMultiplication(z.shape[-1], c.config["num_intermediate_channel"], direction)
    return {"": c.load(module, rows)(z, c.inputs["mask"])}


def outer_product_mean(c: Case) -> Outputs:
    m, hidden, name = c.inputs["act"], c.config["num_outer_channel"], "outer_product_mean"
    rows = [
        *table._norm(f"{name}/layer_norm_input", "x.layer_norm"),
        *table._linear(f"{name}/left_projection", "x.linear_a"),
        *table._linear(f"{name}/right_projection", "x.linear_b"),
        table._row(f"{name}//output_w", "a b o", "x.linear_out.weight", "o (a b)", a=hidden),
        table._row(f"{name}//output_b", "o", "x.linear_out.bias", "o"),
    ]
    return {"": c.load(OuterProductMean(m.shape[-1], c.width("output_b", 0), hidden), rows)(m, c.inputs["mask"])}


def transition(c: Case) -> Outputs:
    x, scope = c.inputs["act"], next(iter(c.params)).split("/")[0]
    return {"": c.load(Transition(x.shape[-1], c.config["num_intermediate_factor"]), table._transition(scope, "x"))(x)}


def evoformer_config(raw: dict[str, Any], c_m: int, c_z: int, blocks: int = 1) -> EvoformerConfig:
    heads_msa, heads_tri = raw["msa_row_attention_with_pair_bias"]["num_head"], raw["triangle_attention_starting_node"]["num_head"]
    return EvoformerConfig(
        blocks=blocks,
        c_hidden_msa_att=c_m // heads_msa,
        heads_msa=heads_msa,
        c_hidden_outer=raw["outer_product_mean"]["num_outer_channel"],
        c_hidden_tri_mul=raw["triangle_multiplication_outgoing"]["num_intermediate_channel"],
        c_hidden_tri_att=c_z // heads_tri,
        heads_tri=heads_tri,
        transition_factor=raw["msa_transition"]["num_intermediate_factor"],
    )


def evoformer_block(c: Case) -> Outputs:
    m, z, scope = c.inputs["msa"], c.inputs["pair"], next(iter(c.params)).split("/")[0]
    config = evoformer_config(c.config, m.shape[-1], z.shape[-1])
    extra = scope == "extra_msa_stack"
    rows = table._under(f"{scope}/", "x.", table._block_rows(config, False, extra))
    block = c.load(EvoformerBlock(m.shape[-1], z.shape[-1], config, global_column=extra), rows)
    m, z = block(m, z, c.inputs["msa_mask"], c.inputs["pair_mask"])
    return {"msa": m, "pair": z}


def template_config(raw: dict[str, Any], stack: dict[str, Any]) -> TemplateConfig:
    triangle, bins = stack["triangle_attention_ending_node"], raw.get("dgram_features", {})
    attention = raw.get("attention", {"key_dim": 4, "num_head": 1})
    return TemplateConfig(
        c_t=triangle["value_dim"],
        blocks=stack["num_block"],
        c_hidden_tri_mul=stack["triangle_multiplication_outgoing"]["num_intermediate_channel"],
        c_hidden_tri_att=triangle["key_dim"] // triangle["num_head"],
        heads_tri=triangle["num_head"],
        transition_factor=stack["pair_transition"]["num_intermediate_factor"],
        c_hidden_pointwise=attention["key_dim"] // attention["num_head"],
        heads_pointwise=attention["num_head"],
        **{ours: bins[theirs] for ours, theirs in (("min_bin", "min_bin"), ("max_bin", "max_bin"), ("bins", "num_bins")) if bins},
        use_unit_vector=raw.get("use_template_unit_vector", False),
    )


def template_pair_stack(c: Case) -> Outputs:
    config = template_config({}, c.config)
    rows = table._under(
        "template_pair_stack/__layer_stack_no_state/", "x.blocks.*.", table._pair_rows(config.heads_tri, False), config.blocks
    )
    return {"": c.load(TemplatePairStack(config), rows)(c.inputs["pair_act"], c.inputs["pair_mask"])}


def template_rows(config: TemplateConfig) -> list[Any]:
    rows = table._template_rows(replace(config, embed_torsion_angles=False), False)
    return [replace(row, ours=tuple(name.replace("pair.", "x.", 1) for name in row.ours)) for row in rows]


def single_template_embedding(c: Case) -> Outputs:
    config, scope = template_config(c.config, c.config["template_pair_stack"]), "template_embedding/"
    rows = [row for row in template_rows(config) if "single_template_embedding" in row.theirs[0]]
    rows = [
        replace(row, theirs=tuple(n.removeprefix(scope) for n in row.theirs), ours=tuple(n.replace("x.embedding.", "x.") for n in row.ours))
        for row in rows
    ]
    aatype, positions, mask = (c.inputs[f"template_{name}"] for name in ("aatype", "all_atom_positions", "all_atom_masks"))
    beta, beta_mask = pseudo_beta(aatype, positions, mask)
    assert torch.equal(beta, c.inputs["template_pseudo_beta"])
    assert torch.equal(beta_mask, c.inputs["template_pseudo_beta_mask"])
    return {"": c.load(SingleTemplateEmbedding(config), rows)(aatype, positions, mask, c.inputs["mask_2d"])}


def template_embedding(c: Case) -> Outputs:
    config, z = template_config(c.config, c.config["template_pair_stack"]), c.inputs["query_embedding"]
    module = c.load(TemplatePairEmbedder(z.shape[-1], config), template_rows(config))
    aatype, positions, mask = (c.inputs[f"template_{name}"] for name in ("aatype", "all_atom_positions", "all_atom_masks"))
    t = module.embedding(aatype, positions, mask, c.inputs["mask_2d"].unsqueeze(0))
    return {"": module.attention(z, t, c.inputs["template_mask"])}


def embeddings_and_evoformer(c: Case) -> Outputs:
    raw, x = c.config, c.inputs
    c_m, c_z, c_s, c_e = raw["msa_channel"], raw["pair_channel"], raw["seq_channel"], raw["extra_msa_channel"]
    bins = raw["prev_pos"]
    embedder = EmbedderConfig(raw["max_relative_feature"], False, 2, bins["min_bin"], bins["max_bin"], bins["num_bins"])
    main = evoformer_config(raw["evoformer"], c_m, c_z, raw["evoformer_num_block"])
    extra = evoformer_config(raw["evoformer"], c_e, c_z, raw["extra_msa_stack_num_block"])
    parts = torch.nn.ModuleDict(
        {
            "input_embedder": InputEmbedder(c_m, c_z, embedder),
            "recycling_embedder": RecyclingEmbedder(c_m, c_z, embedder),
            "extra_msa_embedder": ExtraMSAEmbedder(c_e),
            "extra_msa_stack": ExtraMSAStack(c_e, c_z, extra),
            "evoformer": EvoformerStack(c_m, c_z, c_s, main),
        }
    )
    rows = [
        *table._embedder_rows(),
        *table._under("extra_msa_stack/", "extra_msa_stack.blocks.*.", table._block_rows(extra, False, True), extra.blocks),
        *table._under("evoformer_iteration/", "evoformer.blocks.*.", table._block_rows(main, False, False), main.blocks),
    ]
    c.load(parts, table._under("evoformer/", "", rows))
    beta, _ = pseudo_beta(x["aatype"], x["prev_pos"], x["prev_pos"].new_ones(x["prev_pos"].shape[:-1]))
    m, z = parts["input_embedder"](x["target_feat"], x["residue_index"], x["msa_feat"])
    m_update, z_update = parts["recycling_embedder"](Recycled(x["prev_msa_first_row"], x["prev_pair"], beta))
    m = torch.cat((m[:1] + m_update, m[1:]))
    z = z + z_update
    e = parts["extra_msa_embedder"](x["extra_msa"], x["extra_has_deletion"], x["extra_deletion_value"])
    found = {"input_embedder_msa": m, "input_embedder_pair": z, "input_embedder_extra_msa": e}
    pair_mask = x["seq_mask"][:, None] * x["seq_mask"]
    m, z, s = parts["evoformer"](m, parts["extra_msa_stack"](e, z, x["extra_msa_mask"], pair_mask), x["msa_mask"], pair_mask)
    return found | {"msa": m, "pair": z, "single": s, "msa_first_row": m[0]}


BUILDERS: dict[str, Builder] = {
    "attention": attention,
    "global_attention": global_attention,
    "msa_row_attention": row_attention,
    "msa_column": column_attention,
    "triangle_attention": triangle_attention,
    "triangle_multiplication": triangle_multiplication,
    "outer_product_mean": outer_product_mean,
    "transition": transition,
    "evoformer_iteration": evoformer_block,
    "extra_msa_stack": evoformer_block,
    "template_pair_stack": template_pair_stack,
    "single_template_embedding": single_template_embedding,
    "template_embedding": template_embedding,
    "embeddings_and_evoformer": embeddings_and_evoformer,
}
CASES = claimed(BUILDERS)
pytestmark = pytest.mark.skipif(not (REFERENCE / "modules").is_dir(), reason=f"no {REFERENCE}/modules (FOLDLINE_REFERENCE)")


def compare(name: str, dtype: torch.dtype) -> None:
    builder = builder_of(name, BUILDERS)
    assert builder is not None
    c = case(name).cast(dtype)
    with torch.no_grad():
        ours = builder(c)
    assert set(ours) == set(c.outputs)
    for key, theirs in c.outputs.items():
        whole_stack = name.startswith("embeddings_and_evoformer")
        scale = max(1.0, float(theirs.abs().max())) if whole_stack else 1.0
        assert ours[key].dtype == dtype
        assert_close(ours[key] / scale, theirs / scale, *((1e-4, 1e-3) if whole_stack else ()))


@pytest.mark.parametrize("name", CASES)
def test_float32_equals_deepmind(name: str) -> None:
    compare(name, torch.float32)


@pytest.mark.parametrize("name", CASES)
def test_float64_equals_deepmind(name: str) -> None:
    """Rounding of ours out of the way: what is left is the rounding of the stored values."""
    compare(name, torch.float64)


def test_every_kind_of_module_was_compared() -> None:
    found = {prefix for name in CASES for prefix in BUILDERS if builder_of(name, BUILDERS) is BUILDERS[prefix]}
    missing = sorted(set(BUILDERS) - found)
    if found and missing and REFERENCE == BUNDLED:
        pytest.skip(f"the bundled selection has no case of {missing}")
    assert not missing, f"{REFERENCE}/modules has no case of {missing}"


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("template_embedding")])
def test_without_a_valid_template_the_update_is_exactly_zero(name: str) -> None:
    c = case(name)
    c = replace(c, inputs=c.inputs | {"template_mask": torch.zeros_like(c.inputs["template_mask"])})
    assert not template_embedding(c)[""].any()


def test_a_residue_pair_without_common_rows_gets_a_thousand_times_the_bias() -> None:
    for name in (name for name in CASES if name.startswith("outer_product_mean")):
        c = case(name)
        empty = c.inputs["mask"].sum(0) == 0
        theirs: Tensor = c.params["outer_product_mean//output_b"] * 1000
        for row in outer_product_mean(c)[""][empty].flatten(0, 1):
            torch.testing.assert_close(row, theirs, rtol=1e-5, atol=1e-3)
