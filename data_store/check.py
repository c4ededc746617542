"""The rules of ``ChainRecord``, checked before anything is written."""

from __future__ import annotations

import numpy as np

from ..errors import FoldlineError
from .residues import N_ATOM37, decode_sequence
from .schema import METADATA_TEXT
from .types import ChainRecord, Msa, Templates


def check_record(record: ChainRecord) -> None:
    """FoldlineError naming the first rule of ``ChainRecord`` that ``record`` breaks."""
    n_res = len(record.sequence)
    _demand(record, n_res > 0, "its sequence is empty")
    _array(record, "aatype", record.aatype, "int8", (n_res,))
    _array(record, "residue_index", record.residue_index, "int32", (n_res,))
    _array(record, "positions", record.positions, "float32", (n_res, N_ATOM37, 3))
    _array(record, "mask", record.mask, "uint8", (n_res, N_ATOM37))
    _demand(record, bool(((record.aatype >= 0) & (record.aatype <= 20)).all()), "aatype is not within 0..20")
    _demand(record, decode_sequence(record.aatype) == record.sequence, "sequence and aatype differ (letters: the twenty and X)")
    _demand(record, bool(np.isfinite(record.positions).all()), "positions are not all finite")
    _demand(record, bool((record.mask <= 1).all()), "mask holds values other than 0 and 1")
    _demand(record, len(record.msas) > 0, "it has no MSA; give at least the query alone")
    for msa in record.msas:
        _check_msa(record, msa)
    first = record.msas[0]  # later ones lack the query: their rows are unique across all
    _demand(record, bool((first.rows[0] == record.aatype).all()), f"row 0 of MSA '{first.name}' is not the chain's sequence")
    rows = [row for msa in record.msas for row in np.ascontiguousarray(msa.rows).view(f"V{n_res}")[:, 0].tolist()]
    _demand(record, len(set(rows)) == len(rows), "a row of its MSAs comes twice; pass them through unique_rows first")
    if record.templates is not None:
        _check_templates(record, record.templates)
    if record.plddt is not None:
        _array(record, "plddt", record.plddt, "float32", (n_res,))
    names = (*(getattr(record.metadata, n) for n in METADATA_TEXT), *(m.name for m in record.msas))
    _demand(record, not any("\n" in text for text in names), "a text value holds a line feed")
    _demand(record, bool(record.metadata.chain_id), "its chain id is empty")


def _check_msa(record: ChainRecord, msa: Msa) -> None:
    shape = (max(len(msa.rows), 1), len(record.sequence))
    _array(record, f"MSA '{msa.name}'", msa.rows, "uint8", shape)
    _array(record, f"deletions of MSA '{msa.name}'", msa.deletions, "uint8", shape)
    _demand(record, bool((msa.rows <= 21).all()), f"MSA '{msa.name}' is not within 0..21")


def _check_templates(record: ChainRecord, templates: Templates) -> None:
    shape = (len(templates.aatype), len(record.sequence))
    _array(record, "template aatype", templates.aatype, "int8", shape)
    _array(record, "template positions", templates.positions, "float32", (*shape, N_ATOM37, 3))
    _array(record, "template mask", templates.mask, "uint8", (*shape, N_ATOM37))
    _array(record, "template sum_probs", templates.sum_probs, "float32", shape[:1])
    _demand(record, len(templates.names) == shape[0], f"{shape[0]} templates have {len(templates.names)} names")
    _demand(record, not any("\n" in name for name in templates.names), "a template's name holds a line feed")


def _array(record: ChainRecord, what: str, array: np.ndarray, dtype: str, shape: tuple[int, ...]) -> None:
    fits = array.dtype == np.dtype(dtype) and array.shape == shape
    _demand(record, fits, f"{what} is {array.dtype} {list(array.shape)}, not {dtype} {list(shape)}")


def _demand(record: ChainRecord, holds: bool, problem: str) -> None:
    if not holds:
        raise FoldlineError(f"chain '{record.metadata.chain_id}' cannot be stored: {problem}")
