"""Finds every difference between a store and what was committed, and names the chains that it touches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from ..errors import FoldlineError
from .columns import load_columns
from .digest import content_digest, record_digest
from .manifest import StoreFile
from .schema import MANIFEST, SCHEMA_VERSION
from .store import Store

_NAMED_AT_MOST = 8

Progress = Callable[[int, int, str], None]  # bytes checked, all bytes, the file being read


def find_problems(store: Store, progress: Progress | None = None) -> list[str]:
    """One line per problem: each file against the manifest's size and SHA-256, then the chains of damaged parts against their digests.

    Every byte of an undamaged store is read once: a file that is as it was committed holds the chains that were committed. FoldlineError
    when files cannot be read at all.
    """
    problems = store.place.faults()
    damaged = _damaged_files(store, progress)
    index_file = store.manifest.index.file
    if index_file not in damaged:
        digests = {chain_id: store.index.numbers["sha256"][row].tobytes() for chain_id, row in store.index.rows.items()}
        if content_digest(SCHEMA_VERSION, digests.items()) != store.content_hash:
            problems.append(f"{store.path}: the chains' digests do not make up the content hash in the manifest")
    parts = {part.file: number for number, part in enumerate(store.manifest.parts)}
    for file, what in damaged.items():
        if file == index_file:
            affected = "every chain is affected, though their parts may be whole"
        elif file not in parts:
            affected = "no chain's content is affected"
        else:
            affected = _named(_chains_of_damaged_index(store, file) if index_file in damaged else _affected(store, parts[file]))
        problems.append(f"{file}: {what}; {affected}")
    return problems


def _damaged_files(store: Store, progress: Progress | None) -> dict[str, str]:
    """Relative path -> what is wrong with the file."""
    listed = {file.file: file for file in store.manifest.files()}
    found = set(store.place.names()) - {MANIFEST}
    damaged = {file: "is missing" for file in listed if file not in found}
    damaged |= {file: "is not listed in the manifest" for file in found if file not in listed}
    total, done = sum(file.bytes for file in listed.values()), 0
    for name, file in listed.items():
        if name in damaged:
            continue
        size, digest = 0, hashlib.sha256()
        for block in _blocks(store, file):
            size += len(block)
            digest.update(block)
            if progress is not None:
                progress(done + size, total, name)
        done += file.bytes
        if size != file.bytes:
            damaged[name] = f"has {size} bytes, the manifest says {file.bytes}"
        elif digest.hexdigest() != file.sha256:
            damaged[name] = "its content differs from the manifest's SHA-256"
    return dict(sorted(damaged.items()))


def _blocks(store: Store, file: StoreFile) -> Iterator[bytes]:
    try:
        yield from store.place.blocks(file.file, file.bytes)
    except (OSError, ValueError):  # a zip whose directory is damaged: what cannot be read has no bytes
        return


def _affected(store: Store, part: int) -> list[str]:
    """Which chains of a damaged part cannot be read or have changed."""
    chain_ids = store.index.text["chain_id"][store.index.part_rows[part] : store.index.part_rows[part + 1]]
    return [chain_id for chain_id in chain_ids if not _as_written(store, chain_id)]


def _chains_of_damaged_index(store: Store, part: str) -> list[str]:
    """All chains of a damaged part by the part's own columns, where the store's index is damaged too."""
    try:
        return load_columns(store.place, part).text["chain_id"]
    except Exception:  # over a damaged file, zarr and zipfile raise whatever the damage leads to
        return ["whichever it held"]


def _named(chains: list[str]) -> str:
    if not chains:
        return "no chain's content is affected"
    more = len(chains) - _NAMED_AT_MOST
    return f"chains affected: {', '.join(chains[:_NAMED_AT_MOST])}" + (f" and {more} more" if more > 0 else "")


def _as_written(store: Store, chain_id: str) -> bool:
    try:
        return record_digest(store.record(chain_id)) == store.index.numbers["sha256"][store.index.rows[chain_id]].tobytes()
    except FoldlineError:
        return False
