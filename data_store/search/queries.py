"""The sequences to search with: read from FASTA, judged one by one so that a bad one costs no other."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import FoldlineError
from ..fold_input import LONGEST_NAME
from ..parse.a3m import fasta_records
from ..parse.text import read_source

_UNSAFE = re.compile(r"[^A-Za-z0-9_.+=-]")
_NUCLEOTIDES = frozenset("ACGTUN")
_SURELY_NUCLEOTIDE = 30  # residues; a peptide of only A, C, G, T, N may be real
_LONGEST = 100_000  # HMMER's limit


@dataclass(frozen=True)
class Query:
    """``name`` is also the folder of the results: the header's first word with unusual characters replaced by '_'."""

    name: str
    sequence: str
    header: str

    @property
    def digest(self) -> str:
        """sha256 of the sequence."""
        return hashlib.sha256(self.sequence.encode()).hexdigest()

    @property
    def fasta(self) -> str:
        """The query as a FASTA record."""
        return f">{self.header}\n{self.sequence}\n"


@dataclass(frozen=True)
class Rejected:
    """A query that cannot be searched, and why."""

    name: str
    reason: str


def read_queries(path: Path) -> tuple[tuple[Query, ...], tuple[Rejected, ...]]:
    """The sound and the rejected queries of a FASTA file (.gz or not), in its order. FoldlineError for a file that is no FASTA."""
    queries: list[Query] = []
    rejected: list[Rejected] = []
    seen: Counter[str] = Counter()
    for number, (header, letters) in enumerate(fasta_records(read_source(path), path.name), 1):
        name = _UNSAFE.sub("_", header.split()[0]) if header.split() else ""
        sequence = letters.decode("ascii", errors="replace").upper().removesuffix("*")
        reason = _fault(name, sequence, number)
        if not reason and seen[name]:
            reason = "its name was used before in this file; rename one"
        seen[name] += 1
        if reason:
            rejected.append(Rejected(name[:LONGEST_NAME] or f"record {number}", reason))
        else:
            queries.append(Query(name, sequence, header))
    return tuple(queries), tuple(rejected)


def _fault(name: str, sequence: str, number: int) -> str:
    """Why a query cannot be searched, or ''."""
    if not name or set(name) <= {"."} or name.startswith("."):
        return f"record {number} has no usable name; put one after '>' that does not begin with a dot"
    if len(name) > LONGEST_NAME:
        return f"its name has {len(name)} letters, and at most {LONGEST_NAME} make a file's name; shorten the header's first word"
    if not sequence:
        return "it has no residues"
    illegal = sorted({letter for letter in sequence if not ("A" <= letter <= "Z")})
    if illegal:
        return f"{', '.join(map(repr, illegal[:5]))} is no residue; give one-letter codes without gaps"
    if len(sequence) > _LONGEST:
        return f"{len(sequence)} residues are more than the {_LONGEST} that search programs take; cut it into domains"
    if set(sequence) <= {"X"}:
        return "it is X throughout; nothing can be found with it"
    if len(sequence) >= _SURELY_NUCLEOTIDE and set(sequence) <= _NUCLEOTIDES:
        return "it is a nucleotide sequence; translate it"
    return ""


def shard(queries: Sequence[Query], part: str) -> tuple[Query, ...]:
    """The queries of part 'I/N', I from 0: every N-th. Parts are disjoint and together complete. FoldlineError for any other text."""
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if match is None or int(match[1]) >= int(match[2]):
        raise FoldlineError(f"--shard {part!r} is not I/N with I from 0 to N-1; in a Slurm array of N tasks give $SLURM_ARRAY_TASK_ID/N")
    return tuple(queries[int(match[1]) :: int(match[2])])
