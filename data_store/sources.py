"""What lies in a folder of files to fold, and how a chain with its alignments becomes a ``ChainRecord``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import FoldlineError
from .features.msa import unique_rows
from .match import match_query
from .parse.a3m import ParsedA3m, query_only, read_a3m
from .parse.structure import MMCIF_KINDS, PDB_KINDS, ParsedChain, ParsedStructure
from .parse.text import stem_and_kind
from .residues import ATOM_INDEX, UNKNOWN, encode_sequence
from .types import ChainMetadata, ChainRecord, Msa

ALIGNMENT_KINDS = (".a3m",)
FASTA_KINDS = (".fasta", ".fa", ".faa")
_PDB_ID = re.compile(r"\d[A-Za-z0-9]{3}|pdb_[A-Za-z0-9]{8}")
# A word of three or four small letters ("_model", "_crlf") is no chain: author ids of that length are capitals.
NAMED_CHAIN = re.compile(r"(.+)_([A-Za-z0-9]{1,2}|[A-Z0-9]{3,4})")
# Fewer observed residues than this part of the sequence are worth a look: the file may be cut off.
_FEW_OBSERVED = 0.5


@dataclass(frozen=True)
class SourceFolder:
    """The files of a folder by stem ('1ubq_A'), and what is wrong with second files of one stem."""

    structures: dict[str, Path] = field(default_factory=dict)
    alignments: dict[str, Path] = field(default_factory=dict)
    fastas: dict[str, Path] = field(default_factory=dict)
    duplicates: list[str] = field(default_factory=list)


def scan(folder: Path) -> SourceFolder:
    """Sort the files of ``folder`` by what they are. FoldlineError when it is no folder."""
    if not folder.is_dir():
        raise FoldlineError(f"{folder} is not a folder; give the folder that holds NAME.cif or .pdb and NAME.a3m files")
    found = SourceFolder()
    groups = ((MMCIF_KINDS + PDB_KINDS, found.structures), (ALIGNMENT_KINDS, found.alignments), (FASTA_KINDS, found.fastas))
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        stem, kind = stem_and_kind(path)
        for kinds, files in groups:
            if kind in kinds and stem in files:
                found.duplicates.append(f"{path.name}: {files[stem].name} stands for '{stem}' already; keep one of the two")
            elif kind in kinds:
                files[stem] = path
    return found


def chains_of(stem: str, path: Path, structure: ParsedStructure) -> dict[str, ParsedChain]:
    """Chain id -> chain for a file named ``stem``: the one chain that the name ends in ('1ubq_A'), else all ('1ubq' -> '1ubq_A', …)."""
    named = NAMED_CHAIN.fullmatch(stem)
    if named is None:
        return {f"{stem}_{name}": chain for name, chain in structure.chains.items()}
    if named[2] not in structure.chains:
        raise FoldlineError(
            f"{path.name} is named after chain '{named[2]}', but its protein chains are {', '.join(structure.chains)}; name it PDBID_CHAIN"
        )
    return {stem: structure.chains[named[2]]}


def build_record(
    chain_id: str, chain: ParsedChain | None, structure: ParsedStructure | None, alignment: Path | ParsedA3m | None
) -> tuple[ChainRecord, tuple[str, ...]]:
    """One record and notes on what was repaired. Without ``alignment`` the MSA is the query alone; without ``chain`` all atoms are masked.

    Raises FoldlineError when the alignment is damaged or of another sequence, or the chain has no residue with a full backbone.
    """
    if alignment is None:
        return make_record(chain_id, chain, structure, ())
    return make_record(chain_id, chain, structure, (("a3m", alignment if isinstance(alignment, ParsedA3m) else read_a3m(alignment)),))


def make_record(
    chain_id: str,
    chain: ParsedChain | None,
    structure: ParsedStructure | None,
    alignments: Sequence[tuple[str, ParsedA3m]],
    *,
    predicted: bool = False,
) -> tuple[ChainRecord, tuple[str, ...]]:
    """``build_record`` for any number of (name, alignment) pairs, rows that repeat left out; with ``predicted`` B-factors are the pLDDT.

    Raises FoldlineError also when the alignments are of different sequences, or the B-factors cannot be a pLDDT.
    """
    notes = tuple(note for _, parsed in alignments for note in parsed.notes)
    if not alignments:
        if chain is None:
            raise FoldlineError(f"'{chain_id}' has neither a structure nor a sequence")
        alignments, notes = (("query", query_only(chain.sequence)),), ("no alignment beside it: stored with the query alone",)
    sequence = alignments[0][1].query
    for name, parsed in alignments:
        if parsed.query != sequence:
            raise FoldlineError(
                f"its alignments '{alignments[0][0]}' ({len(sequence)} residues) and '{name}' ({len(parsed.query)}) are not of one sequence"
            )
    if chain is not None:
        chain = match_query(chain, sequence)
        notes = (*chain.notes, *notes, *_demand_observed(chain))
    n_res = len(sequence)
    plddt, scaled = _plddt(chain) if predicted and chain is not None else (None, ())
    return ChainRecord(
        metadata=_metadata(chain_id, structure),
        sequence=sequence,
        aatype=encode_sequence(sequence),
        residue_index=np.arange(n_res, dtype=np.int32),
        positions=chain.positions if chain else np.zeros((n_res, 37, 3), np.float32),
        mask=chain.mask if chain else np.zeros((n_res, 37), np.uint8),
        msas=unique_rows([Msa(name, parsed.rows, parsed.deletions) for name, parsed in alignments]),
        plddt=plddt,
    ), (*notes, *scaled)


def _plddt(chain: ParsedChain) -> tuple[np.ndarray, tuple[str, ...]]:
    """The B-factors as pLDDT 0..100, and a note when they were fractions; FoldlineError when they are neither."""
    values = chain.b_factors
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if not (low >= 0.0 and 0.0 < high <= 100.0):
        raise FoldlineError(f"the B-factors of chain {chain.name} run from {low:g} to {high:g}: they are no pLDDT (0 to 100)")
    if high <= 1.0:
        return values * np.float32(100.0), ("B-factors of 0 to 1 taken as fractions of pLDDT: times 100",)
    return values, ()


def _demand_observed(chain: ParsedChain) -> tuple[str, ...]:
    """A note when little is observed; FoldlineError when nothing can be learnt from the chain."""
    backbone = chain.mask[:, [ATOM_INDEX[name] for name in ("N", "CA", "C")]].all(axis=-1)
    if not backbone.any():
        raise FoldlineError(
            f"no residue of chain {chain.name} has N, CA and C (a Cα trace or a fragment): there is no backbone to learn from"
        )
    if (encode_sequence(chain.sequence) == UNKNOWN).all():
        raise FoldlineError(f"chain {chain.name} has no residue of the twenty types")
    observed, n_res = int(backbone.sum()), len(chain.sequence)
    few = observed < _FEW_OBSERVED * n_res
    return (f"only {observed} of {n_res} residues have a backbone: check that the file is complete",) if few else ()


def _metadata(chain_id: str, structure: ParsedStructure | None) -> ChainMetadata:
    stem = NAMED_CHAIN.fullmatch(chain_id)
    candidates = (stem[1] if stem else chain_id, structure.entry_id if structure else "")
    pdb_id = next((c.lower() for c in candidates if _PDB_ID.fullmatch(c)), "")
    if structure is None:
        return ChainMetadata(chain_id, pdb_id=pdb_id)
    return ChainMetadata(
        chain_id=chain_id,
        pdb_id=pdb_id,
        release_date=structure.release_date,
        resolution=structure.resolution,
        method=structure.method,
        title=structure.title,
    )
