"""A predicted structure and how it is written: mmCIF with ModelCIF's categories, PDB, and PAE json in AlphaFold DB's form."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemmi
import numpy as np

from .. import __version__
from ..data_store.residues import ATOM_TYPES, ONE_TO_THREE, RESTYPES_X

PDB_MAX_RESIDUES = 9999  # what the four columns of a residue number hold


@dataclass(frozen=True)
class Structure:
    """One predicted chain. ``residue_index`` counts from 0; files count from 1.

    ``aatype`` int [N_res] 0..20, ``positions`` float [N_res, 37, 3] ångström, ``atom_mask`` [N_res, 37], ``plddt`` [N_res] 0..100.
    ``title`` and ``model_name`` are free text for the file's header.
    """

    name: str
    aatype: np.ndarray
    residue_index: np.ndarray
    positions: np.ndarray
    atom_mask: np.ndarray
    plddt: np.ndarray
    ptm: float | None = None
    title: str = ""
    model_name: str = "Foldline model"

    @property
    def residue_names(self) -> list[str]:
        """Three-letter names [N_res]; UNK for unknown residues."""
        return [ONE_TO_THREE[RESTYPES_X[int(t)]] for t in self.aatype]


def mmcif_text(structure: Structure) -> str:
    """The chain as mmCIF (PDBx) with ModelCIF's ``ma_`` categories; pLDDT stands in the B-factor column and in ``_ma_qa_metric_local``."""
    model = _gemmi_structure(structure)
    groups = gemmi.MmcifOutputGroups(False)
    for group in (
        "atoms",
        "atom_type",
        "entity",
        "entity_poly",
        "entity_poly_seq",
        "struct_asym",
        "chem_comp",
        "entry",
        "group_pdb",
        "auth_all",
    ):
        setattr(groups, group, True)
    document = model.make_mmcif_document(groups)
    block = document.sole_block()
    block.name = _identifier(structure.name)
    _model_categories(block, structure)
    _atom_site_last(block)
    return str(document.as_string(gemmi.cif.WriteOptions(gemmi.cif.Style.Aligned)))


def pdb_text(structure: Structure) -> str:
    """The chain in PDB format, pLDDT as B-factor; chains of more than 9,999 residues exist as mmCIF only and raise ValueError."""
    if len(structure.aatype) > PDB_MAX_RESIDUES:
        raise ValueError(f"{len(structure.aatype)} residues do not fit into a PDB file")
    options = gemmi.PdbWriteOptions(minimal=True, seqres_records=True)
    return str(_gemmi_structure(structure).make_pdb_string(options))


def pae_json(pae: np.ndarray, maximum: float) -> str:
    """Predicted aligned error [N_res, N_res] (row: aligned residue) as AlphaFold DB has it: whole ångström, and the largest value."""
    rows = np.rint(pae).astype(int).tolist()
    return json.dumps([{"predicted_aligned_error": rows, "max_predicted_aligned_error": round(float(maximum), 2)}], separators=(",", ":"))


def write_structures(structure: Structure, folder: Path) -> list[Path]:
    """NAME.cif and, where it fits, NAME.pdb in ``folder``; returns what was written."""
    paths = [folder / f"{structure.name}.cif"]
    paths[0].write_text(mmcif_text(structure))
    if len(structure.aatype) <= PDB_MAX_RESIDUES:
        paths.append(folder / f"{structure.name}.pdb")
        paths[1].write_text(pdb_text(structure))
    return paths


def _gemmi_structure(structure: Structure) -> gemmi.Structure:
    chain = gemmi.Chain("A")
    for row, name in enumerate(structure.residue_names):
        residue = gemmi.Residue()
        residue.name = name
        residue.seqid = gemmi.SeqId(int(structure.residue_index[row]) + 1, " ")
        residue.label_seq = row + 1
        residue.subchain, residue.entity_id, residue.entity_type = "A", "1", gemmi.EntityType.Polymer
        for slot in np.flatnonzero(structure.atom_mask[row] > 0.5):
            atom = gemmi.Atom()
            atom.name, atom.element = ATOM_TYPES[slot], gemmi.Element(ATOM_TYPES[slot][0])
            atom.pos = gemmi.Position(*(round(float(x), 3) for x in structure.positions[row, slot]))
            atom.b_iso, atom.occ = round(float(structure.plddt[row]), 2), 1.0
            residue.add_atom(atom)
        chain.add_residue(residue)
    model = gemmi.Model(1)
    model.add_chain(chain)
    result = gemmi.Structure()
    result.name = _identifier(structure.name)
    result.add_model(model)
    entity = gemmi.Entity("1")
    entity.entity_type, entity.polymer_type = gemmi.EntityType.Polymer, gemmi.PolymerType.PeptideL
    entity.subchains, entity.full_sequence = ["A"], structure.residue_names
    result.entities = gemmi.EntityList([entity])
    return result


def _identifier(name: str) -> str:
    """Data block names hold no blanks."""
    return "".join(c if c.isalnum() or c in "_-." else "_" for c in name) or "model"


def _model_categories(block: gemmi.cif.Block, structure: Structure) -> None:
    single: dict[str, dict[str, str | int | None]] = {
        "_entry.": {"id": block.name},
        "_struct.": {"entry_id": block.name, "title": structure.title or f"Predicted structure of {structure.name}"},
        "_audit_conform.": {"dict_name": "mmcif_ma.dic", "dict_version": "1.4.6"},
        "_software.": {"pdbx_ordinal": 1, "name": "Foldline", "version": __version__, "classification": "model building"},
        "_ma_software_group.": {"ordinal_id": 1, "group_id": 1, "software_id": 1},
        "_ma_data.": {"id": 1, "name": "Model", "content_type": "model coordinates"},
        "_ma_target_entity.": {"entity_id": 1, "data_id": 1, "origin": "designed"},
        "_ma_target_entity_instance.": {"asym_id": "A", "entity_id": 1, "details": None},
        "_ma_model_list.": {
            "ordinal_id": 1,
            "model_id": 1,
            "model_group_id": 1,
            "model_name": structure.model_name,
            "model_group_name": "Foldline prediction",
            "data_id": 1,
            "model_type": "Ab initio model",
        },
    }
    for prefix, values in single.items():
        block.set_mmcif_category(prefix, {tag: [value] for tag, value in values.items()})
    steps = {"ordinal_id": [1, 2], "protocol_id": [1, 1], "step_id": [1, 2], "method_type": ["coevolution MSA", "modeling"]}
    block.set_mmcif_category("_ma_protocol_step.", steps)
    _confidence_categories(block, structure)


def _confidence_categories(block: gemmi.cif.Block, structure: Structure) -> None:
    """Metric 1: mean pLDDT; 2: pLDDT per residue; 3: pTM, where the model has that head."""
    n = len(structure.aatype)
    metrics = [("pLDDT", "global", "pLDDT"), ("pLDDT", "local", "pLDDT")]
    overall = [(1, f"{structure.plddt.mean():.2f}")]
    if structure.ptm is not None:
        metrics.append(("pTM", "global", "pTM"))
        overall.append((3, f"{structure.ptm:.3f}"))
    name, mode, kind = (list(column) for column in zip(*metrics, strict=True))
    ids, values = (list(column) for column in zip(*overall, strict=True))
    tables: dict[str, dict[str, list[Any]]] = {
        "_ma_qa_metric.": {
            "id": _ordinals(len(metrics)),
            "name": name,
            "mode": mode,
            "type": kind,
            "software_group_id": [1] * len(metrics),
        },
        "_ma_qa_metric_global.": {"ordinal_id": _ordinals(len(ids)), "model_id": [1] * len(ids), "metric_id": ids, "metric_value": values},
        "_ma_qa_metric_local.": {
            "ordinal_id": _ordinals(n),
            "model_id": [1] * n,
            "label_asym_id": ["A"] * n,
            "label_comp_id": structure.residue_names,
            "label_seq_id": _ordinals(n),
            "metric_id": [2] * n,
            "metric_value": [f"{p:.2f}" for p in structure.plddt],
        },
    }
    for prefix, columns in tables.items():
        block.set_mmcif_category(prefix, columns)


def _ordinals(count: int) -> list[int]:
    return list(range(1, count + 1))


def _atom_site_last(block: gemmi.cif.Block) -> None:
    """Readers that stream expect the metadata before the coordinates."""
    items = list(block)
    place = next(i for i, item in enumerate(items) if item.loop is not None and item.loop.tags[0].startswith("_atom_site."))
    block.move_item(place, len(items) - 1)
