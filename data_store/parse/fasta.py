"""FASTA files: unaligned sequences, each with a name."""

from __future__ import annotations

from pathlib import Path

from ...errors import FoldlineError
from .a3m import encode_letters, fasta_records
from .text import read_source

_MAX_RESIDUE_CODE = 20


def read_fasta(path: Path) -> list[tuple[str, str]]:
    """(header without '>', sequence in capital letters) of each record of a .fasta file, plain or .gz.

    A '*' at the end is an end mark and dropped. Raises FoldlineError for a damaged file, a sequence that is empty, or one that holds
    gaps or what is no residue letter.
    """
    return parse_fasta(read_source(path), path.name)


def parse_fasta(data: bytes, where: str) -> list[tuple[str, str]]:
    """The records of FASTA text; ``where`` names it in errors. Raises FoldlineError as ``read_fasta`` does."""
    records = []
    for header, letters in fasta_records(data, where):
        sequence = letters.upper().removesuffix(b"*")
        if not sequence:
            raise FoldlineError(f"{where}: sequence '{header}' is empty; remove the record or fill it")
        foreign = encode_letters(sequence) > _MAX_RESIDUE_CODE
        if foreign.any():
            letter = chr(sequence[int(foreign.argmax())])
            raise FoldlineError(f"{where}: sequence '{header}' holds {letter!r}, which is no residue letter; correct it")
        records.append((header, sequence.decode()))
    return records
