"""`foldline store ls | show | verify`: what a store holds, for people."""

from __future__ import annotations

import sys
from pathlib import Path

from .store import Store

_FILE_WIDTH = 400  # columns where the output is no terminal: nothing is cut for a pipe


def ls(path: Path) -> int:
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


def show(path: Path, chain_id: str, top: int, png: Path | None) -> int:
    """Print one chain with its ``top`` co-evolving pairs, draw it to ``png``. FoldlineError for an id that is not there."""
    from .show.command import show_chain

    return show_chain(path, chain_id, top=top, png=png)


def verify(path: Path) -> int:
    """Check every file and chain; 0 when all is as written, 1 with one line per problem when not."""
    store = Store.open(path)
    problems = store.verify()
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


def _print(what: object) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else _FILE_WIDTH
    Console(highlight=False, markup=False, width=width).print(what)


def _resolution(value: float) -> str:
    return f"{value:.2f} Å" if value > 0 else "-"
