"""Finds every difference between a store and what was committed, and names the chains that it touches."""

from __future__ import annotations

from ..errors import FoldlineError
from .digest import content_digest, file_digest, record_digest
from .manifest import store_files
from .schema import DATA_ARRAYS, INDEX_ARRAYS, SCHEMA_VERSION
from .store import Store

_NAMED_AT_MOST = 8


def find_problems(store: Store) -> list[str]:
    """One line per problem: files against the manifest's hashes, then every chain against its digest, then the content hash."""
    damaged = _damaged_files(store)
    try:
        bad_chains = _damaged_chains(store)
    except FoldlineError as error:
        return [f"{path}: {what}; every chain is affected" for path, what in damaged.items()] or [str(error)]
    problems = [f"{path}: {what}; {_affected(store, path, bad_chains)}" for path, what in damaged.items()]
    if not damaged:
        problems += [f"chain '{chain_id}': {what}" for chain_id, what in bad_chains.items()]
    return problems


def _damaged_files(store: Store) -> dict[str, str]:
    """Relative path -> what is wrong with the file."""
    listed: dict[str, dict[str, object]] = store.manifest["files"]
    found = store_files(store.path)
    damaged = {path: "is missing" for path in listed if path not in set(found)}
    damaged |= {path: "is not listed in the manifest" for path in found if path not in listed}
    for path, stated in listed.items():
        if path in damaged:
            continue
        size = (store.path / path).stat().st_size
        if size != stated["bytes"]:
            damaged[path] = f"has {size} bytes, the manifest says {stated['bytes']}"
        elif file_digest(store.path / path) != stated["sha256"]:
            damaged[path] = "its content differs from the manifest's SHA-256"
    return dict(sorted(damaged.items()))


def _damaged_chains(store: Store) -> dict[str, str]:
    """Chain id -> why it is not what was written. FoldlineError when the index itself cannot be read."""
    digests = {chain_id: store.index.numbers["sha256"][row].tobytes() for chain_id, row in store.index.rows.items()}
    bad: dict[str, str] = {}
    for chain_id, stated in digests.items():
        try:
            if record_digest(store.record(chain_id)) != stated:
                bad[chain_id] = "its content differs from the SHA-256 taken when it was written"
        except FoldlineError as error:
            bad[chain_id] = str(error)
    if not bad and content_digest(SCHEMA_VERSION, digests.items()) != store.content_hash:
        raise FoldlineError(f"{store.path}: the chains' digests do not make up the content hash in the manifest")
    return bad


def _affected(store: Store, path: str, bad_chains: dict[str, str]) -> str:
    """Which of the unreadable or changed chains have data in the file ``path``."""
    name, _, key = path.partition("/c/")
    spec = (DATA_ARRAYS | INDEX_ARRAYS).get(name)
    chains = list(bad_chains)
    if spec is not None and key:
        first = int(key.split("/")[0]) * spec.shard
        chains = [c for c in chains if _touches(store, spec.axis, store.index.rows[c], first, first + spec.shard)]
    if not chains:
        return "no chain's content is affected"
    more = len(chains) - _NAMED_AT_MOST
    return f"chains affected: {', '.join(chains[:_NAMED_AT_MOST])}" + (f" and {more} more" if more > 0 else "")


def _touches(store: Store, axis: str, row: int, first: int, last: int) -> bool:
    start, stop = (row, row + 1) if axis == "chains" else store.index.range(axis, row)
    return start < last and stop > first
