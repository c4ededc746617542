"""The gate's protein with templates: a network that reads templates is compared while it reads some."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..data_store.config import FeatureConfig
from ..data_store.types import Templates
from ..model.config import ModelConfig
from .gate_proteins import GateProtein, Selection

OWN = "itself as template"  # the origin, in the report


def templated(selection: Selection, model: ModelConfig, features: FeatureConfig) -> tuple[GateProtein, ...]:
    """The shortest protein of ``selection`` with its own structure as templates.

    Nothing where the network reads no templates, and where a protein of the selection has some.
    """
    if not (model.template.enabled and features.max_templates):
        return ()
    if any(protein.record.templates is not None and len(protein.record.templates.aatype) for protein in selection.proteins):
        return ()
    return (_itself(selection.proteins[0], min(2, features.max_templates)),)


def _itself(protein: GateProtein, count: int) -> GateProtein:
    """``count`` templates; the second one lacks the last quarter, so that they differ and masks count.

    The last, not the first: torsions behind a gap have a value of rounding's making, those before one have not.
    """
    record = protein.record
    mask = np.repeat(record.mask[None], count, 0).astype(np.uint8)
    mask[1:, -(protein.residues // 4) :] = 0
    positions = np.repeat(record.positions[None], count, 0) * mask[..., None]
    aatype = np.repeat(record.aatype[None], count, 0).astype(np.int8)
    names = tuple(f"itself_{number}" for number in range(count))
    templates = Templates(aatype, positions.astype(np.float32), mask, names, np.linspace(1, 0.5, count).astype(np.float32))
    metadata = replace(record.metadata, chain_id=f"{record.metadata.chain_id}, templates")
    return GateProtein(replace(record, metadata=metadata, templates=templates), OWN)
