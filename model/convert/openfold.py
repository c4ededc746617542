"""OpenFold's parameter names (``*.pt``) and ours: one table, read in both directions.

Both are torch state dicts with the same shapes and the same order of heads, points and outer products: what differs are names, and
that OpenFold's newer models can keep both projections of a triangle multiplication in one array, always edge a before edge b.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from torch import Tensor

from ...errors import FoldlineError
from ..config import ModelConfig
from ..weights import check_names
from .deepmind import empty_state
from .layout import Row

PREFIXES = ("module.", "model.")  # what wrappers for training put before every name


class Layout(NamedTuple):
    """Which of OpenFold's layouts: ``older`` is that of its published weights (1.x), ``fused`` has one array for both edges."""

    older: bool = False
    fused: bool = False

    @staticmethod
    def of(names: Iterable[str]) -> Layout:
        """The layout that these names are of."""
        names = list(names)
        return Layout(older=any(".core." in name for name in names), fused=any(".linear_ab_" in name for name in names))


def load_openfold(params: Mapping[str, Tensor], config: ModelConfig, where: str = "the OpenFold parameters") -> dict[str, Tensor]:
    """OpenFold's parameters -> a state dict of ``AlphaFold(config)``, in float32. Every layout is read, with or without a wrapper's prefix.

    Raises one FoldlineError that lists every unknown, missing and misshapen name; ``where`` names the source in it.
    """
    params = without_prefixes(params)
    layout = Layout.of(params)
    check_names(openfold_shapes(config, layout), {name: tuple(tensor.shape) for name, tensor in params.items()}, where)
    if odd := [f"{name} ({tensor.dtype})" for name, tensor in params.items() if not tensor.is_floating_point()]:
        raise FoldlineError(f"{where} holds tensors that are not floating point: {', '.join(odd)}; nothing was loaded")
    tensors = {name: tensor.detach().cpu().float() for name, tensor in params.items()}
    return {name: tensor for row in name_table(config, layout) for name, tensor in row.to_ours(tensors).items()}


def to_openfold(
    state_dict: Mapping[str, Tensor],
    config: ModelConfig,
    layout: Layout = Layout(),  # noqa: B008 (a constant)
    where: str = "the state dict",
) -> dict[str, Tensor]:
    """A state dict of ``AlphaFold(config)`` -> OpenFold's parameters, sorted by name, in ``layout`` (default: the newer one, not fused).

    Raises one FoldlineError that lists every unknown, missing and misshapen name; ``where`` names the source in it.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in empty_state(config).items()}
    check_names(expected, {name: tuple(tensor.shape) for name, tensor in state_dict.items()}, where)
    tensors = {name: tensor.detach().cpu() for name, tensor in state_dict.items()}
    found = {name: tensor for row in name_table(config, layout) for name, tensor in row.to_theirs(tensors).items()}
    return dict(sorted(found.items()))


@cache
def openfold_shapes(config: ModelConfig, layout: Layout = Layout()) -> Mapping[str, tuple[int, ...]]:  # noqa: B008 (a constant)
    """Every OpenFold name of ``AlphaFold(config)`` and its shape."""
    empty, rows = empty_state(config), name_table(config, layout)
    return {name: tuple(tensor.shape) for row in rows for name, tensor in row.to_theirs(empty).items()}


def without_prefixes(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters without the prefixes that all of their names share."""
    found = dict(params)
    while found and any(all(name.startswith(prefix) for name in found) for prefix in PREFIXES):
        found = {name.partition(".")[2]: tensor for name, tensor in found.items()}
    return found


def name_table(config: ModelConfig, layout: Layout) -> list[Row]:
    """The whole table of a network; each OpenFold name and each of our names stands in exactly one row."""
    rows = [*_embedder_rows(), *_structure_rows(config, layout), *_head_rows(config.heads.pae_enabled)]
    for stack, part in (("extra_msa_stack", config.extra_msa), ("evoformer", config.evoformer)):
        for i in range(part.blocks):
            rows += _block_rows(f"{stack}.blocks.{i}", layout, global_column=stack == "extra_msa_stack")
    return rows + (_template_rows(config, layout) if config.template.enabled else [])


def _row(theirs: str, ours: str, axes: str) -> Row:
    return Row((theirs,), axes, (ours,), axes, {})


def _weight(theirs: str, ours: str) -> list[Row]:
    return [_row(f"{theirs}.weight", f"{ours}.weight", "o i")]


def _linear(theirs: str, ours: str) -> list[Row]:
    return [*_weight(theirs, ours), _row(f"{theirs}.bias", f"{ours}.bias", "o")]


def _norm(theirs: str, ours: str) -> list[Row]:
    return [_row(f"{theirs}.{kind}", f"{ours}.{kind}", "c") for kind in ("weight", "bias")]


def _attention(theirs: str, ours: str, gating: bool = True) -> list[Row]:
    projections = [row for kind in "qkv" for row in _weight(f"{theirs}.linear_{kind}", f"{ours}.linear_{kind}")]
    return [
        *projections,
        *_linear(f"{theirs}.linear_o", f"{ours}.linear_o"),
        *(_linear(f"{theirs}.linear_g", f"{ours}.linear_g") if gating else []),
    ]


def _embedder_rows() -> list[Row]:
    return [
        *_linear("input_embedder.linear_tf_m", "input_embedder.linear_target_m"),
        *_linear("input_embedder.linear_msa_m", "input_embedder.linear_msa_m"),
        *_linear("input_embedder.linear_tf_z_i", "input_embedder.linear_target_i"),
        *_linear("input_embedder.linear_tf_z_j", "input_embedder.linear_target_j"),
        *_linear("input_embedder.linear_relpos", "input_embedder.relative_position.linear"),
        *_linear("recycling_embedder.linear", "recycling_embedder.linear_d"),
        *_norm("recycling_embedder.layer_norm_m", "recycling_embedder.layer_norm_m"),
        *_norm("recycling_embedder.layer_norm_z", "recycling_embedder.layer_norm_z"),
        *_linear("extra_msa_embedder.linear", "extra_msa_embedder.linear"),
        *_linear("evoformer.linear", "evoformer.linear_s"),
    ]


def _block_rows(block: str, layout: Layout, global_column: bool) -> list[Row]:
    """One block, of the same name on both sides; the older layout keeps all but the MSA attentions in a part of its own."""
    msa, pair = (f"{block}.core", f"{block}.core") if layout.older else (block, f"{block}.pair_stack")
    row, column = f"{block}.msa_att_row", f"{block}.msa_att_col"
    column_norm, column_attention = (column, "global_attention") if global_column else (f"{column}._msa_att", "_msa_att.mha")
    return [
        *_norm(f"{row}.layer_norm_m", f"{block}.row_attention.layer_norm_m"),
        *_norm(f"{row}.layer_norm_z", f"{block}.row_attention.layer_norm_z"),
        *_weight(f"{row}.linear_z", f"{block}.row_attention.linear_bias"),
        *_attention(f"{row}.mha", f"{block}.row_attention.attention"),
        *_norm(f"{column_norm}.layer_norm_m", f"{block}.column_attention.layer_norm_m"),
        *_attention(f"{column}.{column_attention}", f"{block}.column_attention.attention"),
        *_transition(f"{msa}.msa_transition", f"{block}.msa_transition"),
        *_norm(f"{msa}.outer_product_mean.layer_norm", f"{block}.outer_product_mean.layer_norm"),
        *_linear(f"{msa}.outer_product_mean.linear_1", f"{block}.outer_product_mean.linear_a"),
        *_linear(f"{msa}.outer_product_mean.linear_2", f"{block}.outer_product_mean.linear_b"),
        *_linear(f"{msa}.outer_product_mean.linear_out", f"{block}.outer_product_mean.linear_out"),
        *_pair_rows(pair, f"{block}.pair", layout.fused),
    ]


def _pair_rows(theirs: str, ours: str, fused: bool) -> list[Row]:
    """The five pair updates, shared by the three stacks."""
    return [
        *_triangle_multiplication(f"{theirs}.tri_mul_out", f"{ours}.triangle_multiplication_outgoing", fused),
        *_triangle_multiplication(f"{theirs}.tri_mul_in", f"{ours}.triangle_multiplication_incoming", fused),
        *_triangle_attention(f"{theirs}.tri_att_start", f"{ours}.triangle_attention_starting"),
        *_triangle_attention(f"{theirs}.tri_att_end", f"{ours}.triangle_attention_ending"),
        *_transition(f"{theirs}.pair_transition", f"{ours}.transition"),
    ]


def _transition(theirs: str, ours: str) -> list[Row]:
    return [
        *_norm(f"{theirs}.layer_norm", f"{ours}.layer_norm"),
        *_linear(f"{theirs}.linear_1", f"{ours}.linear_1"),
        *_linear(f"{theirs}.linear_2", f"{ours}.linear_2"),
    ]


def _triangle_multiplication(theirs: str, ours: str, fused: bool) -> list[Row]:
    """Their a and b are our a and b, going out and coming in (unlike DeepMind's left and right)."""
    rows = [
        *_norm(f"{theirs}.layer_norm_in", f"{ours}.layer_norm_in"),
        *_norm(f"{theirs}.layer_norm_out", f"{ours}.layer_norm_out"),
        *_linear(f"{theirs}.linear_z", f"{ours}.linear_z"),
        *_linear(f"{theirs}.linear_g", f"{ours}.linear_g"),
    ]
    for kind in ("p", "g"):
        if fused:
            for part, axes in (("weight", "o i"), ("bias", "o")):
                edges = tuple(f"{ours}.linear_{edge}_{kind}.{part}" for edge in "ab")
                rows.append(Row((f"{theirs}.linear_ab_{kind}.{part}",), axes, edges, axes, {}))
        else:
            rows += [row for edge in "ab" for row in _linear(f"{theirs}.linear_{edge}_{kind}", f"{ours}.linear_{edge}_{kind}")]
    return rows


def _triangle_attention(theirs: str, ours: str) -> list[Row]:
    return [
        *_norm(f"{theirs}.layer_norm", f"{ours}.layer_norm"),
        *_weight(f"{theirs}.linear", f"{ours}.linear_bias"),
        *_attention(f"{theirs}.mha", f"{ours}.attention"),
    ]


def _template_rows(config: ModelConfig, layout: Layout) -> list[Row]:
    theirs, ours = "" if layout.older else "template_embedder.", "template_embedder.pair"
    angles = f"{theirs}template_angle_embedder" if layout.older else f"{theirs}template_single_embedder"
    rows = [
        *_linear(f"{theirs}template_pair_embedder.linear", f"{ours}.embedding.linear"),
        *_norm(f"{theirs}template_pair_stack.layer_norm", f"{ours}.embedding.layer_norm"),
        *_attention(f"{theirs}template_pointwise_att.mha", f"{ours}.attention", gating=False),
    ]
    for i in range(config.template.blocks):
        rows += _pair_rows(f"{theirs}template_pair_stack.blocks.{i}", f"{ours}.embedding.stack.blocks.{i}", layout.fused)
    if config.template.embed_torsion_angles:
        rows += [row for i in (1, 2) for row in _linear(f"{angles}.linear_{i}", f"template_embedder.angles.linear_{i}")]
    return rows


def _structure_rows(config: ModelConfig, layout: Layout) -> list[Row]:
    theirs, ours, points = "structure_module", "structure", "" if layout.older else ".linear"
    rows = [
        *_norm(f"{theirs}.layer_norm_s", f"{ours}.layer_norm_s"),
        *_norm(f"{theirs}.layer_norm_z", f"{ours}.layer_norm_z"),
        *_linear(f"{theirs}.linear_in", f"{ours}.linear_in"),
        *_linear(f"{theirs}.ipa.linear_q", f"{ours}.ipa.linear_q"),
        *_linear(f"{theirs}.ipa.linear_kv", f"{ours}.ipa.linear_kv"),
        *_linear(f"{theirs}.ipa.linear_q_points{points}", f"{ours}.ipa.linear_q_points"),
        *_linear(f"{theirs}.ipa.linear_kv_points{points}", f"{ours}.ipa.linear_kv_points"),
        *_linear(f"{theirs}.ipa.linear_b", f"{ours}.ipa.linear_b"),
        *_linear(f"{theirs}.ipa.linear_out", f"{ours}.ipa.linear_out"),
        _row(f"{theirs}.ipa.head_weights", f"{ours}.ipa.head_weights", "h"),
        *_norm(f"{theirs}.layer_norm_ipa", f"{ours}.layer_norm_ipa"),
        *_norm(f"{theirs}.transition.layer_norm", f"{ours}.layer_norm_transition"),
        *_linear(f"{theirs}.bb_update.linear", f"{ours}.backbone_update"),
        *_linear(f"{theirs}.angle_resnet.linear_in", f"{ours}.angle_resnet.linear_s"),
        *_linear(f"{theirs}.angle_resnet.linear_initial", f"{ours}.angle_resnet.linear_initial"),
        *_linear(f"{theirs}.angle_resnet.linear_out", f"{ours}.angle_resnet.linear_out"),
    ]
    for i in range(config.structure.transition_layers):
        rows += _linear(f"{theirs}.transition.layers.0.linear_{i + 1}", f"{ours}.transition.{i}")
    for i in range(config.structure.resnet_blocks):
        for part in ("linear_1", "linear_2"):
            rows += _linear(f"{theirs}.angle_resnet.layers.{i}.{part}", f"{ours}.angle_resnet.blocks.{i}.{part}")
    return rows


def _head_rows(pae: bool) -> list[Row]:
    return [
        *_linear("aux_heads.distogram.linear", "heads.distogram.half_logits"),
        *_linear("aux_heads.masked_msa.linear", "heads.masked_msa.logits"),
        *_linear("aux_heads.experimentally_resolved.linear", "heads.experimentally_resolved.logits"),
        *_norm("aux_heads.plddt.layer_norm", "heads.plddt.layer_norm"),
        *_linear("aux_heads.plddt.linear_1", "heads.plddt.linear_1"),
        *_linear("aux_heads.plddt.linear_2", "heads.plddt.linear_2"),
        *_linear("aux_heads.plddt.linear_3", "heads.plddt.logits"),
        *(_linear("aux_heads.tm.linear", "heads.pae.logits") if pae else []),
    ]
