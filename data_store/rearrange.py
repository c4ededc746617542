"""`foldline store merge | split | compact`: new stores from the chains of old ones. A part that goes over whole is linked or copied as it
is, all other chains are written anew into full parts; the old stores are left as they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from ..errors import FoldlineError
from .copying import fetch
from .manifest import StoreFile
from .parts import PartWriter
from .places import FolderPlace, writing
from .schema import CHAINS_PER_PART
from .store import Store
from .writer import append_parts, commit_store, refuse_place

_NAMED_AT_MOST = 5
_SMALL = CHAINS_PER_PART // 2  # parts of fewer chains are joined


def merge_stores(sources: Sequence[Path | str], destination: Path, *, keep_first: bool = False) -> dict[str, int]:
    """One store of all chains of ``sources``; returns how many chains were left out because an earlier source has them, by source.

    FoldlineError when sources share chains, unless ``keep_first``.
    """
    refuse_place(destination)
    stores = [Store.open(source) for source in sources]
    seen: set[str] = set()
    twice: dict[str, list[str]] = {}
    wanted: list[tuple[Store, set[str]]] = []
    for store in stores:
        ids = set(store.chain_ids)
        twice[str(store.path)] = sorted(ids & seen)
        wanted.append((store, ids - seen))
        seen |= ids
    if any(twice.values()) and not keep_first:
        lines = [f"{path} repeats {len(ids)} ({_named(ids)})" for path, ids in twice.items() if ids]
        raise FoldlineError(f"the stores share chains: {'; '.join(lines)}; give --keep-first to take each from the first that has it")
    _build([(destination, wanted)], join_small=False)
    return {path: len(ids) for path, ids in twice.items() if ids}


def compact_store(source: Path | str, destination: Path) -> None:
    """The same chains with small parts, such as appends leave, joined to full ones."""
    store = Store.open(source)
    _build([(destination, [(store, set(store.chain_ids))])], join_small=True)


def append_store(destination: Path, source: Path | str) -> None:
    """Add all chains of ``source`` to the store in the folder ``destination``: its readers see none or all of them.

    FoldlineError, with the store as it was, when they share chains or ``destination`` is no folder.
    """
    store = Store.open(source)
    with _workplace(destination) as folder:
        append_parts(destination, _make_parts(folder, [(store, set(store.chain_ids))], join_small=False))


def read_ids(path: Path) -> list[str]:
    """Chain ids from a text file, one a line; empty lines and what follows a # do not count. FoldlineError when there is none."""
    try:
        lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise FoldlineError(f"{path} cannot be read as a list of chains ({error}); give a text file with one chain id a line") from None
    if not any(lines):
        raise FoldlineError(f"{path} names no chain; give a text file with one chain id a line")
    return [line for line in lines if line]


def split_by_ids(source: Path | str, chosen: Collection[str], destinations: tuple[Path, Path]) -> None:
    """The ``chosen`` chains to the first, all others to the second store. FoldlineError when the source lacks one or a half is empty."""
    store = Store.open(source)
    if missing := sorted(set(chosen) - set(store.chain_ids)):
        raise FoldlineError(f"{store.path} lacks {len(missing)} of the chains to choose ({_named(missing)}); correct the list")
    _split(store, [set(chosen), set(store.chain_ids) - set(chosen)], destinations)


def split_by_share(source: Path | str, share: float, seed: int, destinations: tuple[Path, Path]) -> None:
    """A random ``share`` of the chains (0..1) to the first, the rest to the second store; which ones depends on ids and seed alone."""
    if not 0.0 < share < 1.0:
        raise FoldlineError(f"--share {share} must lie between 0 and 1")
    if seed < 0:
        raise FoldlineError(f"--seed {seed} must be at least 0")
    store = Store.open(source)
    ids = sorted(store.chain_ids)
    order = np.random.default_rng(seed).permutation(len(ids))
    chosen = {ids[i] for i in order[: round(share * len(ids))]}
    _split(store, [chosen, set(ids) - chosen], destinations)


def split_evenly(source: Path | str, destinations: Sequence[Path]) -> None:
    """As many stores as ``destinations`` with equal numbers of chains (within one), in the order of the source."""
    store = Store.open(source)
    shares = np.array_split(np.array(store.chain_ids, dtype=object), len(destinations))
    _split(store, [set(share.tolist()) for share in shares], destinations)


def _split(store: Store, shares: Sequence[set[str]], destinations: Sequence[Path]) -> None:
    for share, destination in zip(shares, destinations, strict=True):
        if not share:
            raise FoldlineError(f"{destination} would get none of the {len(store)} chains of {store.path}; choose another split")
    if len({str(path.absolute()) for path in destinations}) < len(destinations):
        raise FoldlineError("two of the destinations are one path; give each share a path of its own")
    _build([(d, [(store, share)]) for share, d in zip(shares, destinations, strict=True)], join_small=False)


def _build(stores: Sequence[tuple[Path, Sequence[tuple[Store, set[str]]]]], *, join_small: bool) -> None:
    """Prepare the parts of every destination, then commit them all."""
    for destination, _ in stores:
        refuse_place(destination)
    with ExitStack() as stack:
        ready = []
        for destination, sources in stores:
            folder = stack.enter_context(_workplace(destination))
            with writing(destination):
                ready.append((destination, _make_parts(folder, sources, join_small)))
        for destination, parts in ready:
            commit_store(destination, parts, move=False)


@contextmanager
def _workplace(destination: Path) -> Iterator[Path]:
    """A folder beside ``destination`` that goes away again."""
    folder = destination.absolute().parent / f".{destination.name}.parts"
    shutil.rmtree(folder, ignore_errors=True)
    with writing(destination):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_parts(folder: Path, sources: Iterable[tuple[Store, set[str]]], join_small: bool) -> list[Path]:
    paths: list[Path] = []
    writer: PartWriter | None = None
    with ExitStack() as stack:
        for store, wanted in sources:
            for number, part in enumerate(store.manifest.parts):
                first, last = store.index.part_rows[number : number + 2]
                ids = store.index.text["chain_id"][first:last]
                chosen = [chain_id for chain_id in ids if chain_id in wanted]
                if len(chosen) == len(ids) and not (join_small and len(ids) < _SMALL):
                    paths.append(_whole_part(store, part, folder / f"{len(paths)}.zip"))
                    continue
                for chain_id in chosen:
                    if writer is None or writer.full:
                        stack.close()
                        paths.append(folder / f"{len(paths)}.zip")
                        writer = stack.enter_context(PartWriter(paths[-1]))
                    writer.add(store.record(chain_id))
    return paths


def _whole_part(store: Store, part: StoreFile, path: Path) -> Path:
    if isinstance(store.place, FolderPlace):
        try:
            os.link(Path(store.place.path) / part.file, path)
            return path
        except OSError:  # another file system
            pass
    with path.open("xb") as target:
        for block in fetch(store, part):
            target.write(block)
    return path


def _named(ids: Sequence[str]) -> str:
    more = len(ids) - _NAMED_AT_MOST
    return ", ".join(ids[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
