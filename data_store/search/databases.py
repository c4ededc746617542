"""Databases to search: recognised by what lies at the path and checked, all of them, before any work starts."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

from ...errors import FoldlineError
from .identity import WHOLE, Identity, identify

Kind = Literal["fasta", "mmseqs", "hhsuite"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*")
_GZIP_MAGIC = b"\x1f\x8b"
_PEEK = 1 << 16
_MMSEQS_TYPES = {0: "amino acids", 1: "nucleotides", 2: "profiles"}
_HH_PARTS = ("cs219", "a3m", "hhm")


@dataclass(frozen=True)
class Database:
    """``paths``: the FASTA file, or the prefix of an MMseqs2 or HH-suite database (several only for HH-suite, searched together)."""

    name: str
    kind: Kind
    paths: tuple[Path, ...]
    identity: Identity

    @property
    def expandable(self) -> bool:
        """Whether it is an MMseqs2 database of clusters with their members, as ColabFold publishes them."""
        return all(Path(f"{self.paths[0]}{suffix}.dbtype").is_file() for suffix in ("_seq", "_aln"))

    @property
    def compressed(self) -> bool:
        """Whether it is gzip."""
        return self.kind == "fasta" and _magic(self.paths[0]) == _GZIP_MAGIC


def check_databases(specifications: Sequence[str], cache: Path) -> tuple[Database, ...]:
    """Databases from 'name=path' texts, each checked and identified (``cache`` keeps the hashes, see ``identify``).

    Raises one FoldlineError that lists every database that is missing, empty, unreadable or not what its files say.
    """
    found: list[Database] = []
    problems: list[str] = []
    for text in specifications:
        try:
            found.append(_check(text, cache))
        except FoldlineError as error:
            problems.append(str(error))
    names = [database.name for database in found]
    problems += [f"--db {name}: given twice; names must differ" for name in sorted({n for n in names if names.count(n) > 1})]
    if problems:
        raise FoldlineError("; ".join(problems))
    return tuple(found)


def _check(text: str, cache: Path) -> Database:
    name, separator, rest = text.partition("=")
    if not separator or not _NAME.fullmatch(name) or not rest:
        raise FoldlineError(f"--db {text!r} is not name=path with a name of letters, digits, '_', '+', '-'")
    paths = tuple(Path(part).expanduser().absolute() for part in rest.split(","))
    kinds = {_kind(name, path) for path in paths}
    kind = kinds.pop()
    if kinds or (len(paths) > 1 and kind != "hhsuite"):
        raise FoldlineError(f"database {name}: several paths under one name are for HH-suite databases only; give each its own --db")
    files: list[Path] = []
    for path in paths:
        try:
            files += {"fasta": _fasta, "mmseqs": _mmseqs, "hhsuite": _hhsuite}[kind](name, path)
        except OSError as error:
            raise FoldlineError(f"database {name}: {path} cannot be read: {error.strerror}; check the disk and permissions") from None
    return Database(name, kind, paths, identify(files, cache))


def _kind(name: str, path: Path) -> Kind:
    if any(Path(f"{path}_{part}.ff{end}").exists() for part in _HH_PARTS for end in ("data", "index")):
        return "hhsuite"
    if Path(f"{path}.dbtype").exists():
        return "mmseqs"
    if path.is_dir():
        raise FoldlineError(f"database {name}: {path} is a folder; give the FASTA file or the database's prefix inside it")
    if not path.exists():
        raise FoldlineError(
            f"database {name}: there is no FASTA file {path}, no MMseqs2 database ({path.name}.dbtype) and no HH-suite database "
            f"({path.name}_cs219.ffdata); check the path"
        )
    return "fasta"


def open_fasta(path: Path) -> BinaryIO:
    """The unpacked bytes of a FASTA file, gzip or not, judged by its content."""
    return cast("BinaryIO", gzip.open(path)) if _magic(path) == _GZIP_MAGIC else path.open("rb")


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2)


def _fasta(name: str, path: Path) -> list[Path]:
    if not os.access(path, os.R_OK):
        raise FoldlineError(f"database {name}: {path} cannot be read: no permission")
    try:
        with open_fasta(path) as file:
            start = file.read(_PEEK)
            # The end of a packed file proves it whole; of a huge one the search itself will tell.
            while path.stat().st_size < WHOLE and isinstance(file, gzip.GzipFile) and file.read(1 << 22):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FoldlineError(f"database {name}: {path} is cut off or damaged gzip ({error}); fetch it again") from None
    if not start.strip():
        raise FoldlineError(f"database {name}: {path} is empty; fetch it again")
    if not start.lstrip().startswith(b">"):
        raise FoldlineError(f"database {name}: {path} does not begin with '>': it is no FASTA; unpack or convert it")
    residues = b"".join(line for line in start.split(b"\n") if not line.startswith((b">", b";"))).upper()
    letters = set(residues) - set(b" \r\t*-.")
    if not letters:
        raise FoldlineError(f"database {name}: the first records of {path} have no residues; fetch it again")
    if not letters <= set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"):
        raise FoldlineError(f"database {name}: {path} holds {bytes(sorted(letters))[:8]!r} among its residues: it is no protein FASTA")
    if letters <= set(b"ACGTUN") and len(residues) > 200:
        raise FoldlineError(f"database {name}: {path} holds nucleotides; give a protein database")
    return [path]


def _mmseqs(name: str, path: Path) -> list[Path]:
    number = int.from_bytes(Path(f"{path}.dbtype").read_bytes()[:2], "little")
    if number not in (0, 2):
        held = _MMSEQS_TYPES.get(number, f"type {number}")
        raise FoldlineError(f"database {name}: the MMseqs2 database {path} holds {held}, not protein sequences or profiles")
    index = Path(f"{path}.index")
    data = [path] if path.is_file() else sorted(path.parent.glob(f"{path.name}.[0-9]*"))
    if not index.is_file() or not index.stat().st_size or not sum(file.stat().st_size for file in data):
        raise FoldlineError(f"database {name}: the MMseqs2 database {path} is incomplete or empty; make it again with mmseqs createdb")
    if not Path(f"{path}_h.dbtype").is_file():
        raise FoldlineError(f"database {name}: the headers {path.name}_h of the MMseqs2 database are missing; make it again")
    return _siblings(path)


def _hhsuite(name: str, path: Path) -> list[Path]:
    for part in ("cs219", "a3m" if Path(f"{path}_a3m.ffindex").exists() else "hhm"):
        data, index = (Path(f"{path}_{part}.ff{end}") for end in ("data", "index"))
        for file in (data, index):
            if not file.is_file() or not file.stat().st_size:
                raise FoldlineError(f"database {name}: {file} of the HH-suite database is missing or empty; fetch or build it again")
        with index.open("rb") as lines:
            fields = lines.readline().split(b"\t")
        if len(fields) != 3 or not all(field.strip().isdigit() for field in fields[1:]):
            raise FoldlineError(f"database {name}: {index} is no ffindex (name, offset, length); build it again")
        if int(fields[1]) + int(fields[2]) > data.stat().st_size:
            raise FoldlineError(f"database {name}: {index} points behind the end of {data.name}; one of them is cut off")
    return sorted(file for part in _HH_PARTS for file in path.parent.glob(f"{path.name}_{part}.ff*"))


def _siblings(path: Path) -> list[Path]:
    """The files of an MMseqs2 database: its data, headers, members and their alignments. Its index (.idx) follows from these."""
    own = re.compile(re.escape(path.name) + r"(_h|_seq|_seq_h|_aln)?(\.\d+|\.index|\.dbtype|\.lookup|\.source)*")
    return sorted(file for file in path.parent.iterdir() if own.fullmatch(file.name) and file.is_file())
