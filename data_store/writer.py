"""From parts to a store: ``StoreWriter`` makes both, ``commit_store`` and ``append_parts`` take parts that others made."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from ..errors import FoldlineError
from .check import check_record
from .columns import Columns, join_columns, load_columns, save_columns
from .digest import content_digest
from .manifest import Manifest, describe_file, flush, read_manifest, write_manifest
from .parts import PartEntry, PartWriter, read_part_columns, read_part_entry
from .places import FolderPlace, place_of, writing
from .schema import MANIFEST, PARTS, SCHEMA_VERSION
from .types import ChainRecord

__all__ = ["StoreWriter", "append_parts", "check_record", "commit_store", "refuse_existing", "refuse_place"]

_NAMED_AT_MOST = 5


class StoreWriter:
    """``with StoreWriter(path) as writer: writer.add(record)``: the store appears at ``path`` when the block ends without an error.

    Until then everything lies in ``.NAME.partial`` beside ``path``; a run that was killed leaves only that folder, and the next
    writer of the same path removes it. Raises FoldlineError when ``path`` exists or another process is writing it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        refuse_existing(path)
        self._partial = path.absolute().parent / f".{path.name}.partial"
        self._lock = _claim(self._partial)
        (self._partial / PARTS).mkdir()
        self._ids: set[str] = set()
        self._parts: list[Path] = []
        self._part: PartWriter | None = None

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._part is not None:
                self._part.__exit__(kind, error, trace)
            if kind is None:
                with writing(self.path):
                    _finish(self._partial, _place_parts(self._partial, self._parts), self.path)
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)
            os.close(self._lock)

    def add(self, record: ChainRecord) -> None:
        """Append one chain. Raises FoldlineError when it breaks a rule of ``ChainRecord`` or its id is already there."""
        if record.metadata.chain_id in self._ids:
            check_record(record)
            raise FoldlineError(f"chain '{record.metadata.chain_id}' is given twice; chain ids are unique in a store")
        if self._part is not None and self._part.full:
            self._part.__exit__(None, None, None)
            self._part = None
        if self._part is None:
            self._parts.append(self._partial / f"{len(self._parts)}.zip")
            self._part = PartWriter(self._parts[-1])
        self._part.add(record)
        self._ids.add(record.metadata.chain_id)


def commit_store(path: Path, parts: Sequence[Path], *, move: bool = True) -> None:
    """Make finished part files a store at ``path``, in the order given. They are moved into it, but only when it is complete: a run
    that is killed leaves them where they are, and calling again works. Without ``move`` they stay where they are, too.

    FoldlineError, leaving nothing behind, when ``path`` exists, a part is damaged, or two hold the same chain.
    """
    refuse_existing(path)
    staging = path.absolute().parent / f".{path.name}.commit"
    lock = _claim(staging)
    try:
        with writing(path):
            (staging / PARTS).mkdir()
            _finish(staging, _place_parts(staging, parts), path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)
    for part in parts if move else ():
        part.unlink(missing_ok=True)


def append_parts(store: Path, parts: Sequence[Path]) -> None:
    """Add finished part files to the store at ``store``: readers see the store as it was or with all of them, whatever happens.

    The files are moved into it when that is done. FoldlineError, with the store as it was, when it is no folder, another process is
    appending, a part is damaged, or a chain is in the store already.
    """
    place = place_of(store)
    if not isinstance(place, FolderPlace):
        raise FoldlineError(
            f"{store} is no folder, and only a folder can be appended to; copy it to one (foldline store copy {store} FOLDER), "
            f"append there, and copy it back to a new path"
        )
    read_manifest(place)
    lock = _lock_store(store)
    try:
        manifest = read_manifest(place)
        _sweep(store, manifest)
        try:
            columns = [_stored_columns(place, manifest), *map(read_part_columns, parts)]
            _refuse_duplicates(columns, store)
            with writing(store):
                entries = _place_parts(store, parts)
                _write_tables(store, manifest, join_columns(columns), entries)
        finally:
            _sweep(store, read_manifest(place))
    finally:
        os.close(lock)
    for part in parts:
        part.unlink(missing_ok=True)


def refuse_existing(path: Path) -> None:
    """FoldlineError when something lies at ``path``."""
    if os.path.lexists(path):
        raise FoldlineError(f"{path} already exists; a store is never overwritten: remove it or give --store another path")


def refuse_place(path: Path) -> None:
    """FoldlineError when no new store can be made at ``path``: something lies there, or it names another kind of place than a folder."""
    refuse_existing(path)
    text = str(path)
    if text.startswith("s3:/") or path.suffix == ".zip":
        there = "s3://" + text.removeprefix("s3:").lstrip("/") if text.startswith("s3:/") else text
        raise FoldlineError(f"{there}: a store is made as a folder; name one, and then: foldline store copy FOLDER {there}")


def _place_parts(root: Path, parts: Sequence[Path]) -> list[PartEntry]:
    """Link the part files into the store's folder under names made of their content (a copy where links do not go)."""
    entries = []
    for part in parts:
        entry = read_part_entry(part)
        name = f"part-{entry.sha256[:16]}.zip"
        target = root / PARTS / name
        if target.exists():
            raise FoldlineError(f"{part} holds the same chains as another part ({name}); give each part once")
        try:
            os.link(part, target)
        except OSError:
            shutil.copyfile(part, target)
            flush(target)
        entries.append(replace(entry, name=name))
    return entries


def _finish(root: Path, entries: Sequence[PartEntry], path: Path) -> None:
    """Write index and manifest over the parts in ``root`` and move that folder to ``path``."""
    columns = [read_part_columns(root / PARTS / entry.name) for entry in entries]
    _refuse_duplicates(columns, path)
    for file in root.glob("*.zip"):
        file.unlink()
    _write_tables(root, None, join_columns(columns), entries)
    refuse_existing(path)
    root.rename(path.absolute())
    flush(path.absolute().parent)


def _write_tables(root: Path, old: Manifest | None, columns: Columns, entries: Sequence[PartEntry]) -> None:
    """Index file, then manifest: from its renaming on the store is the new one."""
    generation = old.generation + 1 if old else 1
    index = f"index-{generation}.zip"
    save_columns(root / index, columns)
    flush(root / index)
    added = [describe_file(root, f"{PARTS}/{entry.name}", entry.sha256, entry.counts) for entry in entries]
    write_manifest(
        root,
        Manifest(
            schema_version=SCHEMA_VERSION,
            generation=generation,
            counts=columns.counts(),
            content_hash=content_digest(SCHEMA_VERSION, columns.digests.items()),
            index=describe_file(root, index),
            previous_index=old.index if old else None,
            parts=(*(old.parts if old else ()), *added),
        ),
    )


def _refuse_duplicates(columns: Sequence[Columns], path: Path) -> None:
    seen: set[str] = set()
    twice: list[str] = []
    for part in columns:
        twice += [chain_id for chain_id in part.text["chain_id"] if chain_id in seen]
        seen.update(part.text["chain_id"])
    if twice:
        more = len(twice) - _NAMED_AT_MOST
        named = ", ".join(twice[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
        raise FoldlineError(
            f"{path}: {len(twice)} chains are given twice ({named}); chain ids are unique in a store: "
            "leave them out, or merge stores with --keep-first"
        )


def _stored_columns(place: FolderPlace, manifest: Manifest) -> Columns:
    try:
        return load_columns(place, manifest.index.file)
    except Exception as error:  # over a damaged file, zarr and zipfile raise whatever the damage leads to
        raise FoldlineError(f"{place.path}: {manifest.index.file} is damaged; run: foldline store verify {place.path}") from error


def _sweep(store: Path, manifest: Manifest) -> None:
    """Remove what an append that was killed left behind, and indexes that no reader can be waiting for."""
    listed = {file.file for file in manifest.files()}
    for file in (*store.glob(f"{PARTS}/part-*.zip"), *store.glob("index-*.zip"), store / f"{MANIFEST}.new"):
        if file.relative_to(store).as_posix() not in listed:
            file.unlink(missing_ok=True)


def _lock_store(store: Path) -> int:
    descriptor = os.open(store, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise FoldlineError(f"another process is appending to {store}; wait for it") from None
    return descriptor


def _claim(partial: Path) -> int:
    """Make ``partial`` empty and ours: its lock (a file descriptor) goes with the process, so a killed run leaves no lock behind."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FoldlineError(f"{partial.parent} cannot be made a folder for the store: {error.strerror}; give another path") from None
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise FoldlineError(f"another process is writing this store ({partial} is locked); wait for it or give another path") from None
    for entry in partial.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return descriptor
