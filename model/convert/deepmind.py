"""DeepMind's parameter names (``params_model_*.npz``) and ours: one table, read in both directions.

A DeepMind name is ``scope//array``; the blocks of a stack share one array with a leading layer axis. Their linear weights are
[in, out], ours [out, in]; their attention projections keep heads apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from ...errors import FoldlineError
from ..alphafold import AlphaFold
from ..config import EvoformerConfig, ModelConfig, StructureConfig, TemplateConfig
from ..weights import check_names
from .layout import Row

ROOT = "alphafold/alphafold_iteration/"
# Triangle multiplications of AF2-Multimer's later releases keep both projections in one array.
FUSED_MARK = "triangle_multiplication_outgoing/projection//weights"


def load_deepmind(params: Mapping[str, np.ndarray], config: ModelConfig, where: str = "the DeepMind parameters") -> dict[str, Tensor]:
    """DeepMind's arrays -> a state dict of ``AlphaFold(config)``, in float32. Both triangle-multiplication layouts are read.

    Raises one FoldlineError that lists every unknown, missing and misshapen name; ``where`` names the source in it.
    """
    rows = name_table(config, is_fused(params))
    check_names(deepmind_shapes(config, is_fused(params)), {name: tuple(array.shape) for name, array in params.items()}, where)
    if odd := [f"{name} ({array.dtype})" for name, array in params.items() if not np.issubdtype(array.dtype, np.floating)]:
        raise FoldlineError(f"{where} holds arrays that are not floating point: {', '.join(odd)}; nothing was loaded")
    tensors = {name: torch.tensor(array, dtype=torch.float32) for name, array in params.items()}
    return {name: tensor for row in rows for name, tensor in row.to_ours(tensors).items()}


def to_deepmind(
    state_dict: Mapping[str, Tensor], config: ModelConfig, fused: bool = False, where: str = "the state dict"
) -> dict[str, np.ndarray]:
    """A state dict of ``AlphaFold(config)`` -> DeepMind's arrays, sorted by name; ``fused`` chooses the newer triangle layout.

    Raises one FoldlineError that lists every unknown, missing and misshapen name; ``where`` names the source in it.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in empty_state(config).items()}
    check_names(expected, {name: tuple(tensor.shape) for name, tensor in state_dict.items()}, where)
    tensors = {name: tensor.detach().cpu() for name, tensor in state_dict.items()}
    tensors = {name: tensor.float() if tensor.itemsize < 4 else tensor for name, tensor in tensors.items()}  # numpy has no bfloat16
    arrays = {name: array.numpy() for row in name_table(config, fused) for name, array in row.to_theirs(tensors).items()}
    return dict(sorted(arrays.items()))


def deepmind_shapes(config: ModelConfig, fused: bool = False) -> dict[str, tuple[int, ...]]:
    """Every DeepMind name of ``AlphaFold(config)`` and the shape of its array."""
    empty = empty_state(config)
    return {name: tuple(array.shape) for row in name_table(config, fused) for name, array in row.to_theirs(empty).items()}


def is_fused(params: Iterable[str]) -> bool:
    """Whether these names are of the layout with one array for both projections of a triangle multiplication."""
    return any(name.endswith(FUSED_MARK) for name in params)


@cache
def empty_state(config: ModelConfig) -> Mapping[str, Tensor]:
    """The state dict of a network without values: names and shapes."""
    with torch.device("meta"):
        return MappingProxyType(AlphaFold(config).state_dict())


def name_table(config: ModelConfig, fused: bool = False) -> list[Row]:
    """The whole table of a network; each DeepMind name and each of our names stands in exactly one row."""
    extra, main = config.extra_msa, config.evoformer
    rows = [
        *_under("evoformer/", "", _embedder_rows()),
        *_under("evoformer/extra_msa_stack/", "extra_msa_stack.blocks.*.", _block_rows(extra, fused, True), extra.blocks),
        *_under("evoformer/evoformer_iteration/", "evoformer.blocks.*.", _block_rows(main, fused, False), main.blocks),
        *_under("structure_module/", "structure.", _structure_rows(config.structure)),
        *_under("", "heads.", _head_rows(config.heads.pae_enabled)),
    ]
    if config.template.enabled:
        rows += _under("evoformer/", "template_embedder.", _template_rows(config.template, fused))
    return _under(ROOT, "", rows)


def _under(scope: str, module: str, rows: Iterable[Row], layers: int = 0) -> list[Row]:
    """The rows with their names prefixed; with ``layers``, those of a stack."""
    return [
        replace(
            row,
            theirs=tuple(scope + name for name in row.theirs),
            ours=tuple(module + name for name in row.ours),
            layers=layers or row.layers,
        )
        for row in rows
    ]


def _row(theirs: str | tuple[str, ...], their_axes: str, ours: str | tuple[str, ...], our_axes: str, **sizes: int) -> Row:
    one, other = (names if isinstance(names, tuple) else (names,) for names in (theirs, ours))
    return Row(one, their_axes, other, our_axes, sizes)


def _norm(theirs: str, ours: str) -> list[Row]:
    return [_row(f"{theirs}//scale", "c", f"{ours}.weight", "c"), _row(f"{theirs}//offset", "c", f"{ours}.bias", "c")]


def _linear(theirs: str, ours: str) -> list[Row]:
    return [_row(f"{theirs}//weights", "i o", f"{ours}.weight", "o i"), _row(f"{theirs}//bias", "o", f"{ours}.bias", "o")]


def _attention(theirs: str, ours: str, h: int, gating: bool = True, shared_kv: bool = False) -> list[Row]:
    """Attention of ``h`` heads; ``shared_kv`` is the global attention, whose keys and values have no head axis."""
    split = ("i h d", "(h d) i")
    key_value = ("i d", "d i") if shared_kv else split
    rows = [
        _row(f"{theirs}//query_w", split[0], f"{ours}.linear_q.weight", split[1], h=h),
        _row(f"{theirs}//key_w", key_value[0], f"{ours}.linear_k.weight", key_value[1], h=h),
        _row(f"{theirs}//value_w", key_value[0], f"{ours}.linear_v.weight", key_value[1], h=h),
        _row(f"{theirs}//output_w", "h d o", f"{ours}.linear_o.weight", "o (h d)", h=h),
        _row(f"{theirs}//output_b", "o", f"{ours}.linear_o.bias", "o"),
    ]
    if gating:
        rows.append(_row(f"{theirs}//gating_w", split[0], f"{ours}.linear_g.weight", split[1], h=h))
        rows.append(_row(f"{theirs}//gating_b", "h d", f"{ours}.linear_g.bias", "(h d)", h=h))
    return rows


def _embedder_rows() -> list[Row]:
    return [
        *_linear("preprocess_1d", "input_embedder.linear_target_m"),
        *_linear("preprocess_msa", "input_embedder.linear_msa_m"),
        *_linear("left_single", "input_embedder.linear_target_i"),
        *_linear("right_single", "input_embedder.linear_target_j"),
        *_linear("pair_activiations", "input_embedder.relative_position.linear"),
        *_linear("prev_pos_linear", "recycling_embedder.linear_d"),
        *_norm("prev_msa_first_row_norm", "recycling_embedder.layer_norm_m"),
        *_norm("prev_pair_norm", "recycling_embedder.layer_norm_z"),
        *_linear("extra_msa_activations", "extra_msa_embedder.linear"),
        *_linear("single_activations", "evoformer.linear_s"),
    ]


def _block_rows(config: EvoformerConfig, fused: bool, global_column: bool) -> list[Row]:
    row, column = "msa_row_attention_with_pair_bias", "msa_column_global_attention" if global_column else "msa_column_attention"
    return [
        *_norm(f"{row}/query_norm", "row_attention.layer_norm_m"),
        *_norm(f"{row}/feat_2d_norm", "row_attention.layer_norm_z"),
        _row(f"{row}//feat_2d_weights", "i h", "row_attention.linear_bias.weight", "h i"),
        *_attention(f"{row}/attention", "row_attention.attention", config.heads_msa),
        *_norm(f"{column}/query_norm", "column_attention.layer_norm_m"),
        *_attention(f"{column}/attention", "column_attention.attention", config.heads_msa, shared_kv=global_column),
        *_transition("msa_transition", "msa_transition"),
        *_norm("outer_product_mean/layer_norm_input", "outer_product_mean.layer_norm"),
        *_linear("outer_product_mean/left_projection", "outer_product_mean.linear_a"),
        *_linear("outer_product_mean/right_projection", "outer_product_mean.linear_b"),
        _row("outer_product_mean//output_w", "a b o", "outer_product_mean.linear_out.weight", "o (a b)", a=config.c_hidden_outer),
        _row("outer_product_mean//output_b", "o", "outer_product_mean.linear_out.bias", "o"),
        *_under("", "pair.", _pair_rows(config.heads_tri, fused)),
    ]


def _pair_rows(heads: int, fused: bool) -> list[Row]:
    """The five pair updates, shared by the three stacks."""
    return [
        # Of a triangle ijk, their left projection is of our edge a going out and of our edge b coming in.
        *_triangle_multiplication("triangle_multiplication_outgoing", ("a", "b"), fused),
        *_triangle_multiplication("triangle_multiplication_incoming", ("b", "a"), fused),
        *_triangle_attention("triangle_attention_starting_node", "triangle_attention_starting", heads),
        *_triangle_attention("triangle_attention_ending_node", "triangle_attention_ending", heads),
        *_transition("pair_transition", "transition"),
    ]


def _transition(theirs: str, ours: str) -> list[Row]:
    return [
        *_norm(f"{theirs}/input_layer_norm", f"{ours}.layer_norm"),
        *_linear(f"{theirs}/transition1", f"{ours}.linear_1"),
        *_linear(f"{theirs}/transition2", f"{ours}.linear_2"),
    ]


def _triangle_multiplication(name: str, left_right: tuple[str, str], fused: bool) -> list[Row]:
    """``left_right``: which of our edges each of their sides is."""
    left, right = left_right
    norms = ("left_norm_input", "center_norm") if fused else ("layer_norm_input", "center_layer_norm")
    rows = [
        *_norm(f"{name}/{norms[0]}", f"{name}.layer_norm_in"),
        *_norm(f"{name}/{norms[1]}", f"{name}.layer_norm_out"),
        *_linear(f"{name}/output_projection", f"{name}.linear_z"),
        *_linear(f"{name}/gating_linear", f"{name}.linear_g"),
    ]
    for kind, suffix in (("projection", "p"), ("gate", "g")):
        ours = (f"{name}.linear_{left}_{suffix}", f"{name}.linear_{right}_{suffix}")
        if fused:
            rows.append(_row(f"{name}/{kind}//weights", "i o", tuple(f"{o}.weight" for o in ours), "o i"))
            rows.append(_row(f"{name}/{kind}//bias", "o", tuple(f"{o}.bias" for o in ours), "o"))
        else:
            rows += [*_linear(f"{name}/left_{kind}", ours[0]), *_linear(f"{name}/right_{kind}", ours[1])]
    return rows


def _triangle_attention(theirs: str, ours: str, heads: int) -> list[Row]:
    return [
        *_norm(f"{theirs}/query_norm", f"{ours}.layer_norm"),
        _row(f"{theirs}//feat_2d_weights", "i h", f"{ours}.linear_bias.weight", "h i"),
        *_attention(f"{theirs}/attention", f"{ours}.attention", heads),
    ]


def _template_rows(config: TemplateConfig, fused: bool) -> list[Row]:
    single = "template_embedding/single_template_embedding"
    stack = _under(f"{single}/template_pair_stack/__layer_stack_no_state/", "", _pair_rows(config.heads_tri, fused), config.blocks)
    angles = [*_linear("template_single_embedding", "angles.linear_1"), *_linear("template_projection", "angles.linear_2")]
    return [
        *_linear(f"{single}/embedding2d", "pair.embedding.linear"),
        *_norm(f"{single}/output_layer_norm", "pair.embedding.layer_norm"),
        *_under("", "pair.embedding.stack.blocks.*.", stack),
        *_attention("template_embedding/attention", "pair.attention", config.heads_pointwise, gating=False),
        *(angles if config.embed_torsion_angles else []),
    ]


def _structure_rows(config: StructureConfig) -> list[Row]:
    fold, attention, angles = "fold_iteration", "fold_iteration/invariant_point_attention", "fold_iteration/rigid_sidechain"
    rows = [
        *_norm("single_layer_norm", "layer_norm_s"),
        *_norm("pair_layer_norm", "layer_norm_z"),
        *_linear("initial_projection", "linear_in"),
        *_linear(f"{attention}/q_scalar", "ipa.linear_q"),
        *_linear(f"{attention}/kv_scalar", "ipa.linear_kv"),
        *_linear(f"{attention}/q_point_local", "ipa.linear_q_points"),
        *_linear(f"{attention}/kv_point_local", "ipa.linear_kv_points"),
        *_linear(f"{attention}/attention_2d", "ipa.linear_b"),
        *_linear(f"{attention}/output_projection", "ipa.linear_out"),
        _row(f"{attention}//trainable_point_weights", "h", "ipa.head_weights", "h"),
        *_norm(f"{fold}/attention_layer_norm", "layer_norm_ipa"),
        *_norm(f"{fold}/transition_layer_norm", "layer_norm_transition"),
        *_linear(f"{fold}/affine_update", "backbone_update"),
        *_linear(f"{angles}/input_projection", "angle_resnet.linear_s"),
        *_linear(f"{angles}/input_projection_1", "angle_resnet.linear_initial"),
        *_linear(f"{angles}/unnormalized_angles", "angle_resnet.linear_out"),
    ]
    for i in range(config.transition_layers):
        rows += _linear(f"{fold}/transition{_repeat(i)}", f"transition.{i}")
    for i in range(config.resnet_blocks):
        rows += _linear(f"{angles}/resblock1{_repeat(i)}", f"angle_resnet.blocks.{i}.linear_1")
        rows += _linear(f"{angles}/resblock2{_repeat(i)}", f"angle_resnet.blocks.{i}.linear_2")
    return rows


def _repeat(index: int) -> str:
    """How DeepMind's framework numbers modules of one name: the first has no suffix."""
    return f"_{index}" if index else ""


def _head_rows(pae: bool) -> list[Row]:
    return [
        *_linear("distogram_head/half_logits", "distogram.half_logits"),
        *_linear("masked_msa_head/logits", "masked_msa.logits"),
        *_linear("experimentally_resolved_head/logits", "experimentally_resolved.logits"),
        *_norm("predicted_lddt_head/input_layer_norm", "plddt.layer_norm"),
        *_linear("predicted_lddt_head/act_0", "plddt.linear_1"),
        *_linear("predicted_lddt_head/act_1", "plddt.linear_2"),
        *_linear("predicted_lddt_head/logits", "plddt.logits"),
        *(_linear("predicted_aligned_error_head/logits", "pae.logits") if pae else []),
    ]
