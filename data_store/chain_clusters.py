"""Clusters of chains by sequence: computed with MMseqs2, written and read as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import FoldlineError
from ..whole_file import check_out, write_out
from .chain_table import ChainTable
from .mmseqs import easy_cluster, find_mmseqs
from .store import Store

COVERAGE = 0.8  # of a member that its alignment with the representative covers


def cluster_store(path: Path, out: Path, identity: float, coverage: float, threads: int) -> int:
    """`foldline store cluster`: write the clusters of the store's chains to ``out`` as MMseqs2 does (representative, tab, member).

    ``out`` appears whole or not at all. Raises FoldlineError where MMseqs2 is missing or fails and for limits outside 0..1.
    """
    for name, value in (("--identity", identity), ("--coverage", coverage)):
        if not 0.0 <= value <= 1.0:
            raise FoldlineError(f"{name} {value} must lie between 0 and 1")
    check_out(out)
    find_mmseqs("foldline store cluster")
    store = Store.open(path)
    ids = store.chain_ids
    clusters = easy_cluster(read_sequences(store, ids), identity, coverage, threads)
    write_out(out, "".join(f"{ids[members[0]]}\t{ids[member]}\n" for members in clusters for member in members))
    largest = max(map(len, clusters), default=0)
    print(
        f"{len(ids)} chains in {len(clusters)} clusters at {identity:.0%} identity, the largest of {largest}; set data.clusters = '{out}'"
    )
    return 0


def read_sequences(store: Store, chain_ids: Sequence[str]) -> list[str]:
    """The sequences of ``chain_ids``; no alignment is read."""
    return [store.record(name, rows=()).sequence for name in chain_ids]


def read_cluster_file(path: Path) -> dict[str, str]:
    """Chain id -> cluster id.

    Two forms: with tabs, MMseqs2's (representative, tab, member; the representative names the cluster); without, one cluster a line, its
    chains parted by spaces, the first of them naming it. FoldlineError for a line of neither form and for a chain in two clusters.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FoldlineError(
            f"data.clusters = {path} cannot be read ({error}); make it: foldline store cluster STORE --out {path}"
        ) from None
    pairs = any("\t" in line for line in lines)
    clusters: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        cells = line.split("\t") if pairs else line.split()
        if pairs and (len(cells) != 2 or not all(cell.strip() for cell in cells)):
            raise FoldlineError(
                f"{path} line {number} is not 'representative<tab>member' as the other lines; give one form in the whole file"
            )
        cluster, members = cells[0].strip(), cells[1:] if pairs else cells
        for member in members:
            if clusters.setdefault(member.strip(), cluster) != cluster:
                raise FoldlineError(f"{path} line {number} puts chain '{member.strip()}' into a second cluster; keep it in one")
    return clusters


def with_clusters(chains: ChainTable, file: str) -> ChainTable:
    """``chains`` with the clusters of ``file`` (data.clusters) in place of the store's; unchanged when it is ''.

    Distillation entries that the file does not name are alone in their cluster (AF2 clusters the PDB; its distillation set holds one
    sequence per cluster). FoldlineError for an experimental entry that it does not name: that chain would come up too often.
    """
    if not file:
        return chains
    clusters = read_cluster_file(Path(file))
    found = [clusters.get(name, "") for name in chains.chain_id.tolist()]
    cluster_id = np.array(found, dtype=np.str_)
    missing = np.flatnonzero((cluster_id == "") & ~chains.is_distilled)
    if len(missing):
        raise FoldlineError(
            f"data.clusters = {file} does not name {len(missing)} of {len(found)} chains of the store, e.g. "
            f"'{chains.chain_id[missing[0]]}' (it names {len(clusters)}, e.g. '{next(iter(clusters), '')}'); make a new one: "
            f"foldline store cluster STORE --out {file}"
        )
    return chains._replace(cluster_id=cluster_id)
