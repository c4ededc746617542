"""The folder of whole-model cases (model_tiny/<case>/) as our types: config.json -> ModelConfig, batch.npz -> FeatureBatch and Targets."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import torch

from foldline.data_store.types import FeatureBatch, Targets
from foldline.model.config import (
    EmbedderConfig,
    EvoformerConfig,
    HeadsConfig,
    LossConfig,
    ModelConfig,
    StructureConfig,
    TemplateConfig,
)
from foldline.tests.reference.folder import REFERENCE

CASES = sorted(path.parent.name for path in REFERENCE.glob("model_tiny/*/params.npz"))
Arrays = dict[str, np.ndarray]


@cache
def arrays(case: str, name: str) -> Arrays:
    """One npz of a case, read whole."""
    with np.load(REFERENCE / "model_tiny" / case / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def has(case: str, name: str) -> bool:
    return (REFERENCE / "model_tiny" / case / f"{name}.npz").exists()


@cache
def settings(case: str) -> dict[str, Any]:
    """config.json of a case."""
    return dict(json.loads((REFERENCE / "model_tiny" / case / "config.json").read_text()))


def model_config(raw: dict[str, Any]) -> ModelConfig:
    """DeepMind's model config (the part below ``model``) as ours; AlphaFold derives head sizes from widths where it names none."""
    trunk = raw["embeddings_and_evoformer"]
    return ModelConfig(
        c_m=trunk["msa_channel"],
        c_z=trunk["pair_channel"],
        c_s=trunk["seq_channel"],
        c_e=trunk["extra_msa_channel"],
        embedder=EmbedderConfig(
            max_relative=trunk["max_relative_feature"],
            recycle_min_bin=trunk["prev_pos"]["min_bin"],
            recycle_max_bin=trunk["prev_pos"]["max_bin"],
            recycle_bins=trunk["prev_pos"]["num_bins"],
        ),
        template=_template(trunk["template"]),
        extra_msa=_stack(trunk["evoformer"], trunk["extra_msa_stack_num_block"], trunk["extra_msa_channel"], trunk["pair_channel"]),
        evoformer=_stack(trunk["evoformer"], trunk["evoformer_num_block"], trunk["msa_channel"], trunk["pair_channel"]),
        structure=_structure(raw["heads"]["structure_module"]),
        heads=_heads(raw["heads"]),
        loss=_loss(raw["heads"]),
    )


def _stack(raw: dict[str, Any], blocks: int, c_m: int, c_z: int) -> EvoformerConfig:
    heads_msa = raw["msa_row_attention_with_pair_bias"]["num_head"]
    heads_tri = raw["triangle_attention_starting_node"]["num_head"]
    assert raw["msa_transition"]["num_intermediate_factor"] == raw["pair_transition"]["num_intermediate_factor"]
    return EvoformerConfig(
        blocks=blocks,
        c_hidden_msa_att=c_m // heads_msa,
        heads_msa=heads_msa,
        c_hidden_outer=raw["outer_product_mean"]["num_outer_channel"],
        c_hidden_tri_mul=raw["triangle_multiplication_outgoing"]["num_intermediate_channel"],
        c_hidden_tri_att=c_z // heads_tri,
        heads_tri=heads_tri,
        transition_factor=raw["pair_transition"]["num_intermediate_factor"],
        dropout_msa=raw["msa_row_attention_with_pair_bias"]["dropout_rate"],
        dropout_pair=raw["triangle_multiplication_outgoing"]["dropout_rate"],
    )


def _template(raw: dict[str, Any]) -> TemplateConfig:
    stack, attention, bins = raw["template_pair_stack"], raw["attention"], raw["dgram_features"]
    triangle = stack["triangle_attention_ending_node"]
    return TemplateConfig(
        enabled=raw["enabled"],
        c_t=triangle["value_dim"],
        blocks=stack["num_block"],
        c_hidden_tri_mul=stack["triangle_multiplication_outgoing"]["num_intermediate_channel"],
        c_hidden_tri_att=triangle["key_dim"] // triangle["num_head"],
        heads_tri=triangle["num_head"],
        transition_factor=stack["pair_transition"]["num_intermediate_factor"],
        dropout_pair=triangle["dropout_rate"],
        c_hidden_pointwise=attention["key_dim"] // attention["num_head"],
        heads_pointwise=attention["num_head"],
        min_bin=bins["min_bin"],
        max_bin=bins["max_bin"],
        bins=bins["num_bins"],
        embed_torsion_angles=raw["embed_torsion_angles"],
        use_unit_vector=raw["use_template_unit_vector"],
    )


def _structure(raw: dict[str, Any]) -> StructureConfig:
    value = raw["num_scalar_v"]
    return StructureConfig(
        iterations=raw["num_layer"],
        c_hidden=raw["num_scalar_qk"],
        c_value=0 if value == raw["num_scalar_qk"] else value,
        heads=raw["num_head"],
        query_points=raw["num_point_qk"],
        value_points=raw["num_point_v"],
        transition_layers=raw["num_layer_in_transition"],
        dropout=raw["dropout"],
        c_resnet=raw["sidechain"]["num_channel"],
        resnet_blocks=raw["sidechain"]["num_residual_block"],
        position_scale=raw["position_scale"],
    )


def _heads(raw: dict[str, Any]) -> HeadsConfig:
    return HeadsConfig(
        distogram_bins=raw["distogram"]["num_bins"],
        distogram_first_break=raw["distogram"]["first_break"],
        distogram_last_break=raw["distogram"]["last_break"],
        masked_msa_classes=raw["masked_msa"]["num_output"],
        plddt_bins=raw["predicted_lddt"]["num_bins"],
        c_plddt=raw["predicted_lddt"]["num_channels"],
        pae_enabled=raw["predicted_aligned_error"]["weight"] > 0.0,
        pae_bins=raw["predicted_aligned_error"]["num_bins"],
        pae_max=raw["predicted_aligned_error"]["max_error_bin"],
    )


def _loss(raw: dict[str, Any]) -> LossConfig:
    structure = raw["structure_module"]
    return LossConfig(
        fape_weight=structure["weight"],
        sidechain_fraction=structure["sidechain"]["weight_frac"],
        fape_clamp=structure["fape"]["clamp_distance"],
        fape_unit=structure["fape"]["loss_unit_distance"],
        chi_weight=structure["chi_weight"],
        angle_norm_weight=structure["angle_norm_weight"],
        violation_weight=structure["structural_violation_loss_weight"],
        violation_tolerance_factor=structure["violation_tolerance_factor"],
        clash_overlap_tolerance=structure["clash_overlap_tolerance"],
        distogram_weight=raw["distogram"]["weight"],
        masked_msa_weight=raw["masked_msa"]["weight"],
        plddt_weight=raw["predicted_lddt"]["weight"],
        experimentally_resolved_weight=raw["experimentally_resolved"]["weight"],
        pae_weight=raw["predicted_aligned_error"]["weight"],
        min_resolution=raw["predicted_lddt"]["min_resolution"],
        max_resolution=raw["predicted_lddt"]["max_resolution"],
    )


def cycles(case: str, dtype: torch.dtype = torch.float32) -> list[list[FeatureBatch]]:
    """The feature sets of a case: one list of ensemble members per recycling pass, unbatched tensors."""
    raw, members = arrays(case, "batch"), settings(case)["num_ensemble"]
    flat = [_features({name: array[i] for name, array in raw.items()}, dtype) for i in range(len(raw["aatype"]))]
    return [flat[i : i + members] for i in range(0, len(flat), members)]


def _features(raw: Arrays, dtype: torch.dtype) -> FeatureBatch:
    n_res = len(raw["aatype"])
    ones = np.ones(n_res, np.int64)
    names = {"template_positions": "template_all_atom_positions", "template_atom_mask": "template_all_atom_masks"}
    absent = {
        "asym_id": ones,
        "entity_id": ones,
        "sym_id": ones,
        "template_aatype": np.full((1, n_res), 21),
        "template_positions": np.zeros((1, n_res, 37, 3)),
        "template_atom_mask": np.zeros((1, n_res, 37)),
        "template_mask": np.zeros(1),
    }
    fields = {field: raw.get(names.get(field, field), absent.get(field)) for field in FeatureBatch._fields}
    return FeatureBatch(**{field: _tensor(array, dtype) for field, array in fields.items()})


def targets(case: str, dtype: torch.dtype = torch.float32, use_clamped_fape: float = 1.0) -> Targets:
    """The ground truth beside the last pass (its first ensemble member), unbatched. DeepMind clamps unless the batch says otherwise."""
    batch = arrays(case, "batch")
    raw = {name: array[(settings(case)["num_recycle"]) * settings(case)["num_ensemble"]] for name, array in batch.items()}
    raw |= {"positions": raw["all_atom_positions"], "atom_mask": raw["all_atom_mask"], "use_clamped_fape": np.float32(use_clamped_fape)}
    return Targets(**{field: _tensor(raw[field], dtype) for field in Targets._fields})


def _tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(array))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor.long()
