"""A3M alignments: capital letters and '-' are columns of the query, lower-case letters are insertions between them."""

from __future__ import annotations

import re
import string
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import FoldlineError
from ..residues import GAP, RESTYPE_INDEX, UNKNOWN, decode_sequence
from .text import read_source

_LOWER = string.ascii_lowercase.encode()
_INVALID = 255
# Annotation rows that HH-suite writes among the sequences.
_ANNOTATION = re.compile(rb"(ss_|sa_|aa_)(pred|conf|dssp)\b")
_MAX_DELETIONS = 255
_MAX_DROPPED = 0.5


@dataclass(frozen=True)
class ParsedA3m:
    """``names`` of the rows, ``rows`` and ``deletions`` uint8 [depth, N_res] as in ``Msa``, and ``notes`` on rows that were dropped."""

    names: tuple[str, ...]
    rows: np.ndarray
    deletions: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def query(self) -> str:
        """The first row in the twenty letters and X."""
        return decode_sequence(self.rows[0])


def read_a3m(path: Path) -> ParsedA3m:
    """Read an .a3m file, plain or .gz. Raises FoldlineError as ``parse_a3m`` does, and for a damaged file."""
    return parse_a3m(read_source(path), path.name)


def parse_a3m(data: bytes, where: str) -> ParsedA3m:
    """Parse A3M text; ``where`` names it in errors. Lines may be wrapped and end in CRLF.

    Ambiguous letters become what AF2 makes of them: B -> D, Z -> E, U -> C, J, O and '*' -> X. A row whose columns do not match the
    query's is dropped and counted in ``notes``. Raises FoldlineError when there is no query, the query has gaps or insertions, or
    more than half of the rows do not fit.
    """
    return fit_rows(fasta_records(data, where), where)


def fit_rows(records: list[tuple[str, bytes]], where: str) -> ParsedA3m:
    """(name, A3M row) pairs, the query first, by the rules of ``parse_a3m``."""
    names, sequences = [name for name, _ in records], [sequence for _, sequence in records]
    query = _query(sequences[0], where)
    problems: Counter[str] = Counter()
    kept: list[tuple[str, bytes]] = []
    for name, sequence in zip(names, [query, *sequences[1:]], strict=True):
        row = _fit(sequence, len(query))
        if isinstance(row, str):
            problems[row] += 1
        else:
            kept.append((name, row))
    dropped = sum(problems.values())
    reasons = ", ".join(f"{count} {reason}" for reason, count in problems.items())
    if dropped > _MAX_DROPPED * len(records):
        raise FoldlineError(
            f"{where}: {dropped} of {len(records)} rows do not fit the query of {len(query)} residues ({reasons}); it is no A3M of it"
        )
    columns = b"".join(row.translate(None, _LOWER) for _, row in kept)
    return ParsedA3m(
        names=tuple(name for name, _ in kept),
        rows=_ENCODE[np.frombuffer(columns, np.uint8)].reshape(len(kept), len(query)),
        deletions=_deletions([row for _, row in kept], len(query)),
        notes=(f"{dropped} of {len(records)} rows of {where} dropped: {reasons}",) if dropped else (),
    )


def fasta_records(data: bytes, where: str) -> list[tuple[str, bytes]]:
    """(header without '>', sequence without white space) of each record; comments before the first and annotation rows are left out."""
    head, *parts = re.split(rb"(?m)^>", data.replace(b"\r", b"").replace(b"\0", b""))
    if not parts or any(line.strip() and not line.startswith(b"#") for line in head.split(b"\n")):
        raise FoldlineError(f"{where} does not begin with a '>' line: it is neither FASTA nor A3M")
    records = []
    for part in parts:
        header, _, body = part.partition(b"\n")
        if not _ANNOTATION.match(header):
            records.append((header.decode(errors="replace").strip(), b"".join(body.split())))
    if not records:
        raise FoldlineError(f"{where} holds annotation but no sequence; give an A3M with the query as its first sequence")
    return records


def query_only(sequence: str) -> ParsedA3m:
    """The alignment of a sequence for which there is none: the query alone."""
    row = np.array([[RESTYPE_INDEX[letter] for letter in sequence]], np.uint8)
    return ParsedA3m(("query",), row, np.zeros_like(row))


def encode_letters(letters: bytes) -> np.ndarray:
    """Alignment letters -> uint8 residue types 0..21; 255 for what is none."""
    return _ENCODE[np.frombuffer(letters, np.uint8)]


def _query(sequence: bytes, where: str) -> bytes:
    query = sequence.removesuffix(b"*")
    query = query.upper() if query.islower() else query
    if not query:
        raise FoldlineError(f"{where}: its first sequence, the query, is empty")
    codes = encode_letters(query)
    if (codes == GAP).any() or any(letter in _LOWER or letter == ord(".") for letter in query):
        raise FoldlineError(f"{where}: its first sequence has gaps or insertions, so it is not the query; put the query first")
    if (codes == _INVALID).any():
        letter = chr(query[int(np.argmax(codes == _INVALID))])
        raise FoldlineError(f"{where}: its query holds {letter!r}, which is no residue letter")
    return query


def _fit(sequence: bytes, n_res: int) -> bytes | str:
    """The row with ``n_res`` columns, or why there is none.

    A dot is padding in an insertion for some programs, a gap for others, and '*' an end or an unknown residue: the reading that gives the
    right number of columns holds.
    """
    if not sequence:
        return "empty"
    for row in (sequence, *(s for s in _readings(sequence) if s != sequence)):
        if len(row.translate(None, _LOWER)) == n_res and b"." not in row:
            valid = (encode_letters(row.translate(None, _LOWER)) != _INVALID).all()
            return row if valid else "with characters that are no residue letters"
    return "with another number of columns"


def _readings(sequence: bytes) -> tuple[bytes, ...]:
    """What a row with dots and stars may mean, the likeliest first: a star at the end is an end mark before it is a residue."""
    dotless, dashed = sequence.replace(b".", b""), sequence.replace(b".", b"-")
    return dotless.removesuffix(b"*"), dashed.removesuffix(b"*"), dotless, dashed, dotless.replace(b"*", b""), dashed.replace(b"*", b"")


def _deletions(rows: list[bytes], n_res: int) -> np.ndarray:
    """uint8 [depth, n_res]: insertions to the left of each column."""
    deletions = np.zeros((len(rows), n_res), np.uint8)
    for i, row in enumerate(rows):
        if len(row) > n_res:
            letters = np.frombuffer(row, np.uint8)
            columns = np.flatnonzero((letters < ord("a")) | (letters > ord("z")))
            deletions[i] = np.minimum(np.diff(columns, prepend=-1) - 1, _MAX_DELETIONS)
    return deletions


def _encoding() -> np.ndarray:
    table = np.full(256, _INVALID, np.uint8)
    for letter, restype in {**RESTYPE_INDEX, "-": GAP, "J": UNKNOWN, "O": UNKNOWN, "*": UNKNOWN}.items():
        table[ord(letter)] = restype
    for letter, same_as in {"B": "D", "Z": "E", "U": "C"}.items():
        table[ord(letter)] = RESTYPE_INDEX[same_as]
    return table


_ENCODE = _encoding()
