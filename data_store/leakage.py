"""What training chains give away about held-out ones: `foldline store leakage`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..errors import FoldlineError
from ..settings import from_dict, read_toml
from ..whole_file import check_out, write_out
from .chain_clusters import COVERAGE, read_sequences, with_clusters
from .chain_table import ChainTable, read_chain_table
from .config import DataConfig
from .filters import split_chains
from .mmseqs import easy_search, find_mmseqs
from .store import Store

_WORST = 20  # pairs that a report names per kind
_TOLD = {
    "sequence": "identical sequence",
    "entry": "same PDB entry",
    "cluster": "same cluster",
    "identity": "similar sequence",
}


@dataclass(frozen=True)
class Pair:
    """A training chain beside a held-out one. ``identity`` and ``coverage`` (of the shorter chain) 0..1, None where nothing was aligned."""

    trained: str
    held_out: str
    identity: float | None = None
    coverage: float | None = None


@dataclass(frozen=True)
class Leak:
    """All pairs of one kind (``LEAKS``): how many, of how many chains, and the worst, i.e. most alike or longest."""

    kind: str
    pairs: int
    trained: int
    held_out: int
    worst: tuple[Pair, ...]


@dataclass(frozen=True)
class LeakageReport:
    """``skipped`` says why a kind was not looked for; ``allowed`` is data.allowed_leaks."""

    store: str
    content_hash: str
    trained: int
    held_out: int
    leaks: tuple[Leak, ...]
    allowed: tuple[str, ...]
    skipped: dict[str, str]

    @property
    def forbidden(self) -> tuple[Leak, ...]:
        """The leaks that were found and are not allowed."""
        return tuple(leak for leak in self.leaks if leak.pairs and leak.kind not in self.allowed)


def find_leakage(store: Store, data: DataConfig, threads: int = 0) -> LeakageReport:
    """Compare the chains that ``data`` trains on with those that it holds out (validation chains among them).

    Looks for identical sequences, chains of one PDB entry, chains of one cluster, and pairs at least ``data.leakage_identity`` identical
    over 80 % of either chain (MMseqs2; skipped, with the reason, where it is missing). FoldlineError when one of the two sets is empty.
    """
    chains = with_clusters(read_chain_table(store), data.clusters)
    train, held_out, _ = split_chains(chains, data)
    if not len(train) or not len(held_out):
        raise FoldlineError(
            f"{store.path}: {len(train)} chains to train on and {len(held_out)} held out leave nothing to compare; set data.validation, "
            "hold_out, hold_out_file, hold_out_clusters or hold_out_after"
        )
    trained, held = (read_sequences(store, chains.chain_id[rows].tolist()) for rows in (train, held_out))
    values = {
        "sequence": (np.array(trained), np.array(held)),
        "entry": (np.char.lower(chains.pdb_id[train]), np.char.lower(chains.pdb_id[held_out])),
        "cluster": (chains.cluster_id[train], chains.cluster_id[held_out]),
    }
    leaks = [_shared(kind, *columns, chains, train, held_out) for kind, columns in values.items()]
    skipped = {}
    try:
        find_mmseqs("comparing sequences")
    except FoldlineError as error:
        skipped["identity"] = str(error)
    else:
        leaks.append(_similar(trained, held, chains, train, held_out, data.leakage_identity, threads))
    if not (chains.cluster_id != "").any():
        skipped["cluster"] = "neither the store nor data.clusters names clusters; make some: foldline store cluster"
    return LeakageReport(str(store.path), store.content_hash, len(train), len(held_out), tuple(leaks), data.allowed_leaks, skipped)


def leakage_command(path: Path, config: Path, out: Path | None, threads: int) -> int:
    """Print the report, write it to ``out`` as JSON; 1 when there are leaks that data.allowed_leaks does not name, else 0."""
    tables = read_toml(config)
    if not isinstance(tables.get("data"), dict):
        raise FoldlineError(f"{config} has no [data] section; the hold-out rules stand there")
    data = from_dict(DataConfig, tables["data"], f"{config} [data]")
    if out is not None:
        check_out(out)
    report = find_leakage(Store.open(path), data, threads)
    if out is not None:
        _write(report, out)
    print(f"{path}: {report.trained} chains to train on, {report.held_out} held out")
    for leak in report.leaks:
        allowed = " (allowed)" if leak.kind in report.allowed and leak.pairs else ""
        print(f"{_TOLD[leak.kind]:<20}{leak.pairs:>9} pairs of {leak.trained} training and {leak.held_out} held-out chains{allowed}")
        for pair in leak.worst[:3]:
            alike = "" if pair.identity is None else f"  {pair.identity:.0%} identical over {pair.coverage:.0%}"
            print(f"    {pair.trained}  {pair.held_out}{alike}")
    for kind, why in report.skipped.items():
        print(f"not looked for: {_TOLD[kind]}: {why}", file=sys.stderr)
    if report.forbidden:
        kinds = ", ".join(leak.kind for leak in report.forbidden)
        print(
            f"foldline: training leaks into what is held out ({kinds}); set data.hold_out_relatives = true, hold out whole clusters, "
            "or name the kinds in data.allowed_leaks",
            file=sys.stderr,
        )
    return 1 if report.forbidden else 0


def _shared(kind: str, trained: np.ndarray, held: np.ndarray, chains: ChainTable, train: np.ndarray, held_out: np.ndarray) -> Leak:
    """Pairs with the same value in ``trained`` [N_train] and ``held`` [N_held_out]; '' equals nothing. Counted without listing them."""
    common = np.intersect1d(trained[trained != ""], held)
    left, right = np.isin(trained, common), np.isin(held, common)
    counts_left, counts_right = (np.unique(v[m], return_counts=True)[1] for v, m in ((trained, left), (held, right)))
    longest = np.argsort(-chains.length[held_out][right], kind="stable")[:_WORST]
    first_trained = dict(zip(trained[left][::-1].tolist(), train[left][::-1].tolist(), strict=True))
    pairs = tuple(
        Pair(str(chains.chain_id[first_trained[value]]), str(chains.chain_id[row]))
        for value, row in zip(held[right][longest].tolist(), held_out[right][longest].tolist(), strict=True)
    )
    return Leak(kind, int((counts_left * counts_right).sum()), int(left.sum()), int(right.sum()), pairs)


def _similar(
    trained: Sequence[str], held: Sequence[str], chains: ChainTable, train: np.ndarray, held_out: np.ndarray, identity: float, threads: int
) -> Leak:
    hits = easy_search(held, trained, identity, COVERAGE, threads)
    worst = tuple(
        Pair(str(chains.chain_id[train[t]]), str(chains.chain_id[held_out[h]]), same, covered) for h, t, same, covered in hits[:_WORST]
    )
    return Leak("identity", len(hits), len({h[1] for h in hits}), len({h[0] for h in hits}), worst)


def _write(report: LeakageReport, out: Path) -> None:
    content = {**asdict(report), "leaking": [leak.kind for leak in report.forbidden]}
    write_out(out, json.dumps(content, indent=1))
