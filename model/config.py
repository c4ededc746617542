"""Sizes of the network, one frozen dataclass per sub-network, and DeepMind's presets (AF2 supplement 1.5-1.9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import ClassVar

from ..errors import FoldlineError


@dataclass(frozen=True)
class EmbedderConfig:
    """Input, relative-position and recycling embedders (Algorithms 3-5, 32). Preset ``multimer``: chains told apart."""

    PRESETS: ClassVar[dict[str, Callable[[], EmbedderConfig]]] = {}

    max_relative: int = 32
    use_chain_relative: bool = False  # AF2-Multimer's encoding from asym_id, entity_id, sym_id
    max_relative_chain: int = 2
    recycle_min_bin: float = 3.25  # ångström
    recycle_max_bin: float = 20.75
    recycle_bins: int = 15


@dataclass(frozen=True)
class TemplateConfig:
    """Template pair stack and pointwise attention (Algorithms 16, 17; supplement 1.7.1)."""

    enabled: bool = True
    c_t: int = 64
    blocks: int = 2
    c_hidden_tri_mul: int = 64
    c_hidden_tri_att: int = 16
    heads_tri: int = 4
    transition_factor: int = 2
    dropout_pair: float = 0.25
    c_hidden_pointwise: int = 16
    heads_pointwise: int = 4
    min_bin: float = 3.25  # ångström
    max_bin: float = 50.75
    bins: int = 39
    embed_torsion_angles: bool = True
    use_unit_vector: bool = False


@dataclass(frozen=True)
class EvoformerConfig:
    """One stack of Evoformer blocks (Algorithm 6), main or extra-MSA (Algorithm 18)."""

    blocks: int = 48
    c_hidden_msa_att: int = 32
    heads_msa: int = 8
    c_hidden_outer: int = 32
    c_hidden_tri_mul: int = 128
    c_hidden_tri_att: int = 32
    heads_tri: int = 4
    transition_factor: int = 4
    dropout_msa: float = 0.15
    dropout_pair: float = 0.25


@dataclass(frozen=True)
class StructureConfig:
    """Structure module (Algorithms 20-24). Weights are shared by its iterations."""

    iterations: int = 8
    c_hidden: int = 16
    c_value: int = 0  # width of a head's value; 0: c_hidden, as in every published model
    heads: int = 12
    query_points: int = 4
    value_points: int = 8
    transition_layers: int = 3
    dropout: float = 0.1
    c_resnet: int = 128
    resnet_blocks: int = 2
    position_scale: float = 10.0  # ångström per internal unit


@dataclass(frozen=True)
class HeadsConfig:
    """Output heads (supplement 1.9)."""

    distogram_bins: int = 64
    distogram_first_break: float = 2.3125  # ångström
    distogram_last_break: float = 21.6875
    masked_msa_classes: int = 23
    plddt_bins: int = 50
    c_plddt: int = 128
    pae_enabled: bool = False
    pae_bins: int = 64
    pae_max: float = 31.0  # ångström


@dataclass(frozen=True)
class LossConfig:
    """Weights and limits of the losses (supplement 1.9, equation 7)."""

    fape_weight: float = 1.0  # the structure module's sum: 0.5 backbone + 0.5 side chain, plus chi and violations
    sidechain_fraction: float = 0.5
    fape_clamp: float = 10.0  # ångström
    fape_unit: float = 10.0  # ångström
    chi_weight: float = 0.5
    angle_norm_weight: float = 0.01
    violation_weight: float = 0.0
    violation_tolerance_factor: float = 12.0
    clash_overlap_tolerance: float = 1.5  # ångström
    distogram_weight: float = 0.3
    masked_msa_weight: float = 2.0
    plddt_weight: float = 0.01
    experimentally_resolved_weight: float = 0.0
    pae_weight: float = 0.0
    min_resolution: float = 0.1  # ångström; confidence losses count only within these
    max_resolution: float = 3.0


@dataclass(frozen=True)
class ModelConfig:
    """The whole network. ``PRESETS`` holds DeepMind's five models, their pTM variants, and two reduced sizes."""

    PRESETS: ClassVar[dict[str, Callable[[], ModelConfig]]] = {}

    c_m: int = 256
    c_z: int = 128
    c_s: int = 384
    c_e: int = 64
    embedder: EmbedderConfig = field(default_factory=EmbedderConfig)
    template: TemplateConfig = field(default_factory=TemplateConfig)
    extra_msa: EvoformerConfig = field(default_factory=lambda: EvoformerConfig(blocks=4, c_hidden_msa_att=8))
    evoformer: EvoformerConfig = field(default_factory=EvoformerConfig)
    structure: StructureConfig = field(default_factory=StructureConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        """Raises one FoldlineError that lists every size that no network can have."""
        if wrong := list(_impossible(self, "model")):
            raise FoldlineError("; ".join(wrong))


def _impossible(config: object, where: str) -> Iterator[str]:
    """Negative numbers, empty layers and dropout of everything, in a config and those inside it."""
    for item in fields(config):  # type: ignore[arg-type]
        value, key = getattr(config, item.name), f"{where}.{item.name}"
        if is_dataclass(value):
            yield from _impossible(value, key)
        elif isinstance(value, bool):
            continue
        elif value < 0:
            yield f"{key} = {value} is negative"
        elif value == 0 and item.name != "c_value" and item.name.startswith(("c_", "heads", "iterations", "bins")):
            yield f"{key} = 0 must be at least 1"
        elif value >= 1 and item.name.startswith("dropout"):
            yield f"{key} = {value} must be below 1"


def multimer_embedder() -> EmbedderConfig:
    """Relative positions within a chain, and of chains and entities, as AF2-Multimer encodes them (Evans et al. 2021)."""
    return EmbedderConfig(use_chain_relative=True)


EmbedderConfig.PRESETS.update(multimer=multimer_embedder)


def _with_ptm(config: ModelConfig) -> ModelConfig:
    return replace(config, heads=replace(config.heads, pae_enabled=True), loss=replace(config.loss, pae_weight=0.1))


def model_1() -> ModelConfig:
    """DeepMind's model_1 and model_2: templates on, fine-tuning losses."""
    return ModelConfig(loss=LossConfig(violation_weight=1.0, experimentally_resolved_weight=0.01))


def model_1_ptm() -> ModelConfig:
    """model_1 with the predicted-aligned-error head."""
    return _with_ptm(model_1())


def model_3() -> ModelConfig:
    """DeepMind's model_3, 4 and 5: no templates."""
    return replace(model_1(), template=TemplateConfig(enabled=False))


def model_3_ptm() -> ModelConfig:
    """model_3 with the predicted-aligned-error head."""
    return _with_ptm(model_3())


def small() -> ModelConfig:
    """Reduced widths and depth with every part of model_1_ptm; for work on one GPU."""
    return replace(
        model_1_ptm(),
        c_m=128,
        c_z=64,
        c_s=192,
        c_e=32,
        template=TemplateConfig(c_t=32, blocks=1, c_hidden_tri_mul=32),
        extra_msa=EvoformerConfig(blocks=2, c_hidden_msa_att=8, heads_msa=4, c_hidden_outer=16, c_hidden_tri_mul=64, c_hidden_tri_att=16),
        evoformer=EvoformerConfig(blocks=12, c_hidden_msa_att=16, c_hidden_outer=16, c_hidden_tri_mul=64, c_hidden_tri_att=16),
    )


def tiny() -> ModelConfig:
    """The smallest network with every part of model_1_ptm; trains on two CPU cores."""
    stack = EvoformerConfig(
        blocks=1, c_hidden_msa_att=8, heads_msa=4, c_hidden_outer=8, c_hidden_tri_mul=32, c_hidden_tri_att=8, transition_factor=2
    )
    return replace(
        model_1_ptm(),
        c_m=32,
        c_z=32,
        c_s=64,
        c_e=16,
        template=TemplateConfig(c_t=16, blocks=1, c_hidden_tri_mul=16, c_hidden_tri_att=8, heads_tri=2, c_hidden_pointwise=8),
        extra_msa=replace(stack, heads_msa=2),
        evoformer=replace(stack, blocks=2),
        structure=StructureConfig(iterations=4, heads=4, c_resnet=32),
        heads=HeadsConfig(c_plddt=32, pae_enabled=True),
    )


ModelConfig.PRESETS.update(
    tiny=tiny,
    small=small,
    model_1=model_1,
    model_2=model_1,
    model_3=model_3,
    model_4=model_3,
    model_5=model_3,
    model_1_ptm=model_1_ptm,
    model_2_ptm=model_1_ptm,
    model_3_ptm=model_3_ptm,
    model_4_ptm=model_3_ptm,
    model_5_ptm=model_3_ptm,
)
