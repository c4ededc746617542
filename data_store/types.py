"""What flows from the store to the model: ``ChainRecord`` (numpy, stored) and ``FeatureBatch`` / ``Targets`` (tensors).

The jaxtyping annotations of ``FeatureBatch`` and ``Targets`` are the single schema: collate padding, batch checks, ONNX axes
and engine profiles are derived from them through ``schema_of``. ``N_res`` and the other dimension names are AF2's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, get_type_hints

import numpy as np
from jaxtyping import Float, Int

Array = Any  # numpy in the store, torch in the model: the schema is the same


@dataclass(frozen=True)
class ChainMetadata:
    """What filters and samplers need to know of a chain without reading it."""

    chain_id: str  # unique in a store, e.g. "1ubq_A"
    pdb_id: str = ""
    release_date: str = ""  # ISO date, "" when the file has none
    resolution: float = 0.0  # ångström; 0.0 = not known (NMR, headerless file)
    method: str = ""
    source: str = "experimental"  # or "distillation"
    cluster_id: str = ""
    weight: float = 1.0
    asym_id: int = 1
    entity_id: int = 1
    sym_id: int = 1
    title: str = ""


@dataclass(frozen=True)
class Msa:
    """One alignment of a chain. Row 0 of a chain's first one is the query; no row comes twice in a chain's alignments (``unique_rows``).

    ``rows`` uint8 [depth, N_res] residue types 0..21 (21 = gap); ``deletions`` uint8 [depth, N_res] residues deleted to the left of
    each column, clipped at 255.
    """

    name: str
    rows: np.ndarray
    deletions: np.ndarray


@dataclass(frozen=True)
class Templates:
    """Aligned templates in the query's numbering.

    ``aatype`` int8 [N_templ, N_res] (21 = gap), ``positions`` float32 [N_templ, N_res, 37, 3] ångström, ``mask`` uint8
    [N_templ, N_res, 37], ``names`` and ``sum_probs`` (HHsearch) one per template.
    """

    aatype: np.ndarray
    positions: np.ndarray
    mask: np.ndarray
    names: tuple[str, ...] = ()
    sum_probs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


@dataclass(frozen=True)
class ChainRecord:
    """One chain as stored.

    ``aatype`` int8 [N_res] 0..20, ``residue_index`` int32 [N_res] from 0, ``positions`` float32 [N_res, 37, 3] ångström, ``mask`` uint8
    [N_res, 37] (all zero for a sequence without structure), at least one MSA (the query alone when nothing was found).
    """

    metadata: ChainMetadata
    sequence: str
    aatype: np.ndarray
    residue_index: np.ndarray
    positions: np.ndarray
    mask: np.ndarray
    msas: tuple[Msa, ...]
    templates: Templates | None = None
    plddt: np.ndarray | None = None  # float32 [N_res] 0..100, distillation entries only


class FeatureBatch(NamedTuple):
    """Everything one pass of the network reads (AF2 supplement table 1). A leading batch dimension may stand before each."""

    aatype: Int[Array, " N_res"]  # 0..20
    residue_index: Int[Array, " N_res"]
    seq_mask: Float[Array, " N_res"]
    asym_id: Int[Array, " N_res"]
    entity_id: Int[Array, " N_res"]
    sym_id: Int[Array, " N_res"]
    target_feat: Float[Array, "N_res 22"]
    msa_feat: Float[Array, "N_clust N_res 49"]
    msa_mask: Float[Array, "N_clust N_res"]
    extra_msa: Int[Array, "N_extra N_res"]  # 0..22
    extra_has_deletion: Float[Array, "N_extra N_res"]
    extra_deletion_value: Float[Array, "N_extra N_res"]
    extra_msa_mask: Float[Array, "N_extra N_res"]
    template_aatype: Int[Array, "N_templ N_res"]  # 0..21
    template_positions: Float[Array, "N_templ N_res 37 3"]
    template_atom_mask: Float[Array, "N_templ N_res 37"]
    template_mask: Float[Array, " N_templ"]


class Targets(NamedTuple):
    """What the losses compare with. A leading batch dimension may stand before each."""

    positions: Float[Array, "N_res 37 3"]
    atom_mask: Float[Array, "N_res 37"]
    true_msa: Int[Array, "N_clust N_res"]
    bert_mask: Float[Array, "N_clust N_res"]
    resolution: Float[Array, ""]  # ångström, 0 = not known
    use_clamped_fape: Float[Array, ""]  # 1: clamp the backbone FAPE of this sample, 0: do not (AF2 1.11.5: 0.9 of samples clamp)


class TrainBatch(NamedTuple):
    """One micro-batch: a feature set per recycling pass (the last is trained on), targets, and who it is."""

    cycles: tuple[FeatureBatch, ...]
    targets: Targets
    position: Int[Array, " B"]  # place in the run's sample order; names the sample in logs and replays


class FieldSchema(NamedTuple):
    """One field's schema: 'int' or 'float', and its dimensions (names for dynamic ones, ints for fixed ones)."""

    kind: str
    dims: tuple[str | int, ...]


def schema_of(batch_type: type) -> dict[str, FieldSchema]:
    """Field name -> ``FieldSchema`` of ``FeatureBatch`` or ``Targets``, read from the annotations."""
    return _schema_of(batch_type)


@cache
def _schema_of(batch_type: type) -> dict[str, FieldSchema]:
    hints = get_type_hints(batch_type)
    return {
        name: FieldSchema(
            "int" if any("int" in d for d in hint.dtypes) else "float",
            tuple(int(d) if d.isdigit() else d for d in hint.dim_str.split()),
        )
        for name, hint in hints.items()
    }
