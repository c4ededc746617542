"""The pass as a chain of stages: which tensors each reads and makes, in which types, and the same stages as PyTorch modules.

A tensor keeps one name from the stage that makes it to those that read it, so the stages of a pass can be joined by name alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data_store.types import FieldSchema
from ..errors import FoldlineError
from ..model.alphafold import AlphaFold
from ..model.config import ModelConfig
from ..model.precision import BF16, FP32, PrecisionPolicy
from .graph import CHAIN_FIELDS, RECYCLED, border_schema
from .pieces import EXTRA_FIELDS, TEMPLATE_FIELDS, Piece, stage_pieces

# Factors of products in float16, everything that adds up in float32: what keeps float16 safe over deep alignments.
FP16 = PrecisionPolicy("fp16", products="float16", representations="float32", parameters="float32")
POLICIES: Mapping[str, PrecisionPolicy] = {policy.name: policy for policy in (FP32, BF16, FP16)}
PRECISIONS = tuple(POLICIES)


@dataclass(frozen=True)
class Stage:
    """One stage: schemas of the tensors it reads and makes, by name, in the order of its module's arguments and results."""

    name: str
    inputs: Mapping[str, FieldSchema]
    outputs: Mapping[str, FieldSchema]


def find_policy(precision: str) -> PrecisionPolicy:
    """The policy behind a precision's name. Raises FoldlineError for a name that is none of ``PRECISIONS``."""
    if precision not in POLICIES:
        raise FoldlineError(f"precision '{precision}' is unknown; choose from {', '.join(PRECISIONS)}")
    return POLICIES[precision]


def stages(config: ModelConfig) -> tuple[Stage, ...]:
    """The stages in running order: embed, templates (where the network has them), extra, evoformer, structure, heads."""
    known = border_schema(config)
    return tuple(
        Stage(name, {key: known[key] for key in inputs}, {key: known[key] for key in outputs})
        for name, (inputs, outputs) in _names(config).items()
    )


def tensor_dtype(name: str, schema: FieldSchema, precision: str) -> str:
    """Type of a border tensor as numpy (with ml_dtypes) names it.

    Representations are added up in float32 in every precision, so borders are float32 or int64; a tensor in half precision lives inside a
    stage only. Raises FoldlineError for an unknown precision.
    """
    find_policy(precision)
    return "int64" if schema.kind == "int" else "float32"


class StageModule(nn.Module):
    """A stage in PyTorch, unbatched: forward takes tensors in the order of ``stage.inputs`` and returns those of ``stage.outputs``.

    It shares its parameters with the network that it was made of, and computes by that network's precision policy.
    """

    def __init__(self, stage: Stage, pieces: list[Piece], model: AlphaFold) -> None:
        super().__init__()
        self.stage, self.pieces = stage, pieces
        self.model = model

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Runs the pieces in order; each reads and makes named tensors."""
        known = dict(zip(self.stage.inputs, tensors, strict=True))
        for piece in self.pieces:
            made = run_piece(piece.module, [known[name] for name in piece.inputs], trunk_type(piece, self.model))
            known |= zip(piece.outputs, made, strict=True)
        return tuple(known[name] for name in self.stage.outputs)


def stage_modules(model: AlphaFold) -> dict[str, nn.Module]:
    """Stage name -> ``StageModule``; chained by name they are ``graph.FoldPass``, bit for bit."""
    pieces = stage_pieces(model)
    return {stage.name: StageModule(stage, pieces[stage.name], model) for stage in stages(model.config)}


def trunk_type(piece: Piece, model: AlphaFold) -> torch.dtype | None:
    """The type of a piece's matrix products; None: as its parameters are."""
    return model.trunk_dtype if piece.trunk else None


def run_piece(module: nn.Module, tensors: list[Tensor], dtype: torch.dtype | None) -> tuple[Tensor, ...]:
    """A piece's results, its matrix products in ``dtype``."""
    with nullcontext() if dtype is None else torch.autocast(tensors[0].device.type, dtype=dtype):
        result = module(*tensors)
    return result if isinstance(result, tuple) else (result,)


def _names(config: ModelConfig) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    chains = CHAIN_FIELDS if config.embedder.use_chain_relative else ()
    embedder = ("target_feat", "residue_index", *chains, "msa_feat", *RECYCLED)
    names: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {"embed": (embedder, ("embedded_m", "embedded_z"))}
    z = "embedded_z"
    rows = ("template_rows", "template_rows_mask") if config.template.enabled and config.template.embed_torsion_angles else ()
    if config.template.enabled:
        z, before = "templated_z", z
        names["templates"] = ((before, "seq_mask", *TEMPLATE_FIELDS, "template_mask"), (z, *rows))
    names["extra"] = ((z, "seq_mask", *EXTRA_FIELDS, "extra_msa_mask"), ("extra_z",))
    names["evoformer"] = (("embedded_m", "extra_z", "seq_mask", "msa_mask", *rows), ("next_m_1", "next_z", "s"))
    names["structure"] = (("s", "next_z", "aatype", "seq_mask"), ("positions", "atom_mask", "next_x", "structure_s"))
    pae = ("pae",) if config.heads.pae_enabled else ()
    names["heads"] = (("next_z", "structure_s"), ("plddt", "distogram", *pae))
    return names
