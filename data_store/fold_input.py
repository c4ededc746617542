"""What a user gives to fold: A3M or FASTA files, with a structure beside them where the answer is known."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ..errors import FoldlineError
from .features.msa import unique_rows
from .parse.a3m import encode_letters, fasta_records, query_only
from .parse.structure import ParsedChain, ParsedStructure, read_structure
from .parse.text import read_source, stem_and_kind
from .residues import decode_sequence
from .sources import ALIGNMENT_KINDS, FASTA_KINDS, SourceFolder, build_record, chains_of, scan
from .types import ChainRecord

LONGEST_NAME = 200  # letters; files of results add some of their own, and file systems end at 255


def read_fold_input(path: Path) -> list[ChainRecord]:
    """The records to fold in ``path``, a folder or one .a3m or .fasta file (plain or .gz), sorted by chain id.

    An A3M gives one record named after its file; a FASTA file one per sequence, with the query alone as MSA. A structure of the same
    name (NAME.cif, .pdb; or PDBID.cif for PDBID_CHAIN) gives the coordinates to compare with, otherwise all atoms are masked; a structure
    alone gives its own sequence. Files of other kinds are left out, and so are rows that an alignment repeats. Raises FoldlineError for
    any of these files that cannot be read and when there is nothing to fold.
    """
    if path.is_dir():
        folder = scan(path)
        wanted = folder
    elif path.is_file():
        folder = scan(path.parent)
        stem, kind = stem_and_kind(path)
        if kind not in ALIGNMENT_KINDS + FASTA_KINDS:
            raise FoldlineError(f"{path} is not read; give .a3m or .fasta (or .gz), or a folder of them")
        wanted = SourceFolder(alignments={stem: path}) if kind in ALIGNMENT_KINDS else SourceFolder(fastas={stem: path})
    else:
        raise FoldlineError(f"{path} does not exist; give an .a3m or .fasta file or a folder of them")
    if wanted.duplicates:
        raise FoldlineError(f"{path}: {wanted.duplicates[0]}")
    records = [record for stem, file in wanted.fastas.items() for record in _from_fasta(stem, file, folder)]
    records += [_from_alignment(stem, file, folder) for stem, file in wanted.alignments.items()]
    claimed = {record.metadata.chain_id for record in records}
    for stem, file in wanted.structures.items():
        if not any(name == stem or name.startswith(f"{stem}_") for name in claimed):
            structure = read_structure(file)
            records += [build_record(name, chain, structure, None)[0] for name, chain in chains_of(stem, file, structure).items()]
    if not records:
        raise FoldlineError(f"{path} holds nothing to fold; give NAME.a3m or NAME.fasta, plain or .gz")
    names = [record.metadata.chain_id for record in records]
    for name in names:
        if names.count(name) > 1:
            raise FoldlineError(f"{path} gives '{name}' twice; give each protein one name and one file")
    records = [replace(record, msas=unique_rows(record.msas)) for record in records]
    return sorted(records, key=lambda record: record.metadata.chain_id)


def _from_alignment(stem: str, file: Path, folder: SourceFolder) -> ChainRecord:
    chain, structure = _beside(stem, folder)
    try:
        return build_record(stem, chain, structure, file)[0]
    except FoldlineError as error:
        raise FoldlineError(f"{file} cannot be folded as asked: {error}") from None


def _from_fasta(stem: str, file: Path, folder: SourceFolder) -> list[ChainRecord]:
    sequences = fasta_records(read_source(file), file.name)
    records = []
    for header, letters in sequences:
        name = stem if len(sequences) == 1 else re.sub(r"[^A-Za-z0-9_.-]", "_", (header.split() or [""])[0])
        codes = encode_letters(letters.upper().removesuffix(b"*"))
        if not name or not len(codes) or (codes > 20).any():
            raise FoldlineError(f"{file.name}: sequence '{header}' is empty, nameless or no text of one-letter codes; correct it")
        if name.startswith(".") or len(name) > LONGEST_NAME:  # it names a folder of results
            shown = name if len(name) <= LONGEST_NAME else f"{name[:20]}…"
            raise FoldlineError(f"{file.name}: '{shown}' cannot name a folder; at most {LONGEST_NAME} letters and no dot in front")
        chain, structure = _beside(name, folder)
        msa = query_only(decode_sequence(codes))
        records.append(build_record(name, chain, structure, msa)[0])
    return records


def _beside(stem: str, folder: SourceFolder) -> tuple[ParsedChain | None, ParsedStructure | None]:
    """The chain to compare ``stem`` with, when the folder has its structure."""
    for name in (stem, stem.rpartition("_")[0]):
        if name in folder.structures:
            structure = read_structure(folder.structures[name])
            chains = chains_of(name, folder.structures[name], structure)
            if stem in chains or len(chains) == 1:
                return chains.get(stem) or next(iter(chains.values())), structure
    return None, None
