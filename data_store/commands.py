"""`foldline store ls | show | verify`: what a store holds, for people."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from .residues import ATOM_INDEX
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
    counts = store.manifest["counts"]
    _print(f"{counts['chains']} chains, {counts['residues']} residues, {counts['msas']} MSAs; content {store.content_hash}")
    return 0


def show(path: Path, chain_id: str) -> int:
    """Print everything but the arrays of one chain. FoldlineError for an id that is not there."""
    from rich.table import Table

    store = Store.open(path)
    record = store.record(chain_id)
    data = record.metadata
    observed = int(record.mask[:, ATOM_INDEX["CA"]].sum())
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, text in (
        ("chain", data.chain_id),
        ("title", data.title),
        ("PDB id", data.pdb_id),
        ("released", data.release_date),
        ("method", data.method),
        ("resolution", _resolution(data.resolution)),
        ("source", data.source),
        ("cluster", data.cluster_id),
        ("weight", f"{data.weight:g}"),
        ("asym, entity, sym", f"{data.asym_id}, {data.entity_id}, {data.sym_id}"),
        ("length", f"{len(record.sequence)} residues, {observed} with CA, {int(record.mask.sum())} atoms"),
        *(
            (f"MSA '{msa.name}'", f"{len(msa.rows)} rows, {_gaps(msa.rows):.0%} gaps, {int((msa.deletions > 0).sum())} deletions")
            for msa in record.msas
        ),
        ("templates", "not searched" if record.templates is None else ", ".join(record.templates.names) or "none found"),
        *((("mean pLDDT", f"{record.plddt.mean():.1f}"),) if record.plddt is not None else ()),
        ("sequence", record.sequence),
    ):
        table.add_row(name, text or "-")
    _print(table)
    return 0


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
    _print(f"{path}: {len(store)} chains, {len(store.manifest['files'])} files, all as written; content {store.content_hash}")
    return 0


def _print(what: object) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else _FILE_WIDTH
    Console(highlight=False, markup=False, width=width).print(what)


def _resolution(value: float) -> str:
    return f"{value:.2f} Å" if value > 0 else "-"


def _gaps(rows: np.ndarray) -> float:
    return float((rows == 21).mean())
