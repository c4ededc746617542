"""``PartWriter``: one part of a store, a self-contained file of up to about a thousand chains. Parts can be made anywhere, in any order."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ..errors import FoldlineError
from .arrays import GroupWriter
from .check import check_record
from .columns import Columns, ColumnsBuilder, append_columns, load_columns
from .digest import file_digest, record_digest
from .places import FolderPlace, writing
from .schema import ALL_ARRAYS, CHAINS_PER_PART
from .types import ChainRecord


@dataclass(frozen=True)
class PartEntry:
    """What a store needs to know of a finished part: its file's name, size and SHA-256, its counts, its chains' digests by id."""

    name: str
    size: int
    sha256: str
    counts: dict[str, int]
    digests: dict[str, bytes]


class PartWriter:
    """``with PartWriter(path) as part: part.add(record)``: the part appears at ``path`` when the block ends without an error.

    Until then it is ``.NAME.building`` beside it, which the next writer of the same path replaces. Afterwards ``entry`` describes it.
    Raises FoldlineError when ``path`` exists or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        if os.path.lexists(path):
            raise FoldlineError(f"{path} already exists; a part is never overwritten: remove it or give another path")
        self.path = path
        self.entry: PartEntry | None = None
        self._building = path.absolute().parent / f".{path.name}.building"
        with writing(path):
            self._building.unlink(missing_ok=True)
            self._group = GroupWriter(self._building, ALL_ARRAYS)
        self._columns = ColumnsBuilder()
        self._digests: dict[str, bytes] = {}

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                with writing(self.path):
                    self._finish()
            else:
                self._group.abandon()
        finally:
            self._building.unlink(missing_ok=True)

    def __len__(self) -> int:
        """Chains added so far."""
        return len(self._digests)

    @property
    def full(self) -> bool:
        """Whether it holds as many chains as a part should."""
        return len(self) >= CHAINS_PER_PART

    def add(self, record: ChainRecord) -> None:
        """Append one chain. Raises FoldlineError when it breaks a rule of ``ChainRecord`` or its id is already there."""
        check_record(record)
        if record.metadata.chain_id in self._digests:
            raise FoldlineError(f"chain '{record.metadata.chain_id}' is given twice; chain ids are unique in a store")
        digest = self._digests[record.metadata.chain_id] = record_digest(record)
        self._columns.add(record, digest)
        with writing(self.path):
            self._append(record)

    def _append(self, record: ChainRecord) -> None:
        for name in ("aatype", "residue_index", "positions", "mask"):
            self._group.append(name, getattr(record, name))
        if record.plddt is not None:
            self._group.append("plddt", record.plddt)
        for msa in record.msas:
            self._group.append("msa", msa.rows.reshape(-1))
            self._group.append("deletions", msa.deletions.reshape(-1))
        if record.templates is not None:
            for name in ("aatype", "positions", "mask"):
                stacked = getattr(record.templates, name)
                self._group.append(f"template_{name}", stacked.reshape(-1, *stacked.shape[2:]))

    def _finish(self) -> None:
        columns = self._columns.columns()
        append_columns(self._group, columns)
        self._group.close()
        with self._building.open("rb") as file:
            os.fsync(file.fileno())
        self.entry = _entry(self._building, self.path.name, columns)
        self._building.rename(self.path.absolute())


def read_part_entry(path: Path) -> PartEntry:
    """The entry of a finished part file. FoldlineError when it is none or is damaged."""
    return _entry(path, path.name, read_part_columns(path))


def read_part_columns(path: Path) -> Columns:
    """The columns of a finished part file. FoldlineError when it is none or is damaged."""
    try:
        return load_columns(FolderPlace(path.parent), path.name)
    except Exception as error:  # over a damaged file, zarr and zipfile raise whatever the damage leads to
        what = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise FoldlineError(f"{path} cannot be read as a part of a store ({what}); remove it and make it again") from error


def _entry(path: Path, name: str, columns: Columns) -> PartEntry:
    return PartEntry(name, path.stat().st_size, file_digest(path), columns.counts(), columns.digests)
