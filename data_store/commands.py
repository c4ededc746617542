"""`foldline store ls | show | verify | copy | append | merge | split | compact` on the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import FoldlineError
from .store import Store

_FILE_WIDTH = 400  # columns where the output is no terminal: nothing is cut for a pipe


def ls(path: Path | str) -> int:
    """Print one line per chain and the totals."""
    from rich.table import Table

    store = Store.open(path)
    table = Table(
        "chain", "length", "MSA rows", "templates", "resolution", "released", "source", "cluster", "title", box=None, pad_edge=False
    )
    for column in table.columns:
        column.no_wrap = True
        column.justify = "right" if column.header in ("length", "MSA rows", "templates", "resolution") else "left"
    index = store.index
    for row, chain_id in enumerate(store.chain_ids):
        data = store.metadata(chain_id)
        depth = int(index.numbers["msa_depth"][slice(*index.range("msas", row))].sum())
        templates = int(index.numbers["n_templates"][row])
        cells = (chain_id, str(index.numbers["length"][row]), str(depth), str(templates) if templates >= 0 else "-")
        table.add_row(*cells, _resolution(data.resolution), data.release_date, data.source, data.cluster_id, data.title)
    _print(table)
    counts = store.manifest.counts
    _print(f"{counts['chains']} chains, {counts['residues']} residues, {counts['msas']} MSAs; content {store.content_hash}")
    return 0


def show(path: Path | str, chain_id: str, top: int, png: Path | None) -> int:
    """Print one chain with its ``top`` co-evolving pairs, draw it to ``png``. FoldlineError for an id that is not there."""
    from .show.command import show_chain

    return show_chain(path, chain_id, top=top, png=png)


def verify(path: Path | str) -> int:
    """Check every byte of every file; 0 when all is as written, 1 with one line per problem when not. Progress on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from .verify import find_problems

    store = Store.open(path)
    errors = Console(stderr=True)
    columns = (TextColumn("verify"), BarColumn(), DownloadColumn(), TimeRemainingColumn(), TextColumn("{task.fields[name]}", markup=False))
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("verify", total=None, name="")
        problems = find_problems(store, lambda done, total, name: bar.update(task, completed=done, total=total, name=name))
    for problem in problems:
        print(f"damaged: {problem}", file=sys.stderr)
    if problems:
        print(
            f"foldline: {path} differs from what was committed in {len(problems)} places; ingest again or restore the files",
            file=sys.stderr,
        )
        return 1
    _print(f"{path}: {len(store)} chains, {len(store.manifest.files())} files, all as written; content {store.content_hash}")
    return 0


def copy(source: str, destination: str) -> int:
    """Copy a store between a folder, a zip file and S3."""
    from .copying import copy_store

    return _made(copy_store(source, destination))


def merge(sources: Sequence[str], destination: Path, keep_first: bool) -> int:
    """Join stores into a new one."""
    from .rearrange import merge_stores

    for path, count in merge_stores(sources, destination, keep_first=keep_first).items():
        _print(f"{count} chains of {path} left out: an earlier store has them")
    return _made(Store.open(destination))


def compact(source: str, destination: Path) -> int:
    """The same store with full parts."""
    from .rearrange import compact_store

    compact_store(source, destination)
    return _made(Store.open(destination))


def append(store: Path, source: str) -> int:
    """Add all chains of another store to a store in a folder, at once."""
    from .rearrange import append_store

    append_store(store, source)
    return _made(Store.open(store))


def split(source: str, destinations: Sequence[Path], chosen: Path | None, share: float | None, seed: int) -> int:
    """Divide a store's chains among new ones: those listed in a file and the rest, a random share and the rest, or evenly."""
    from .rearrange import read_ids, split_by_ids, split_by_share, split_evenly

    if (chosen or share is not None) and len(destinations) != 2:
        raise FoldlineError(f"{len(destinations)} destinations, but --list and --share make two stores: the chosen chains and the rest")
    if len(destinations) < 2:
        raise FoldlineError(f"one destination, {destinations[0]}, and a split makes at least two; to copy a store: foldline store copy")
    if chosen:
        split_by_ids(source, read_ids(chosen), (destinations[0], destinations[1]))
    elif share is not None:
        split_by_share(source, share, seed, (destinations[0], destinations[1]))
    else:
        split_evenly(source, destinations)
    for path in destinations:
        _made(Store.open(path))
    return 0


def _made(store: Store) -> int:
    parts = len(store.manifest.parts)
    _print(f"{store.path}: {len(store)} chains in {parts} {'part' if parts == 1 else 'parts'}; content {store.content_hash}")
    return 0


def _print(what: object) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else _FILE_WIDTH
    Console(highlight=False, markup=False, width=width).print(what)


def _resolution(value: float) -> str:
    return f"{value:.2f} Å" if value > 0 else "-"
