"""Which proteins the gate folds: one for each length bin, one with a deep alignment. Chosen by rule, so that an export repeats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..data_store.fold_input import read_fold_input
from ..data_store.residues import CA
from ..data_store.store import Store
from ..data_store.types import ChainRecord
from ..errors import FoldlineError
from .comparison import FEWEST_RESIDUES
from .config import GateConfig

BUNDLED = Path(__file__).parent / "proteins"
ORIGINS = ("validation", "store", "given", "bundled")  # the order in which a bin asks them


@dataclass(frozen=True)
class Candidate:
    """A protein that may be chosen; ``read`` gives its record, None where it has no experimental structure to compare with."""

    name: str
    residues: int
    rows: int  # of all its alignments
    origin: str
    read: Callable[[], ChainRecord | None]


@dataclass(frozen=True)
class GateProtein:
    """A chosen protein and where it comes from (one of ``ORIGINS``)."""

    record: ChainRecord
    origin: str

    @property
    def name(self) -> str:
        """The chain's id."""
        return self.record.metadata.chain_id

    @property
    def residues(self) -> int:
        """N_res."""
        return len(self.record.sequence)

    @property
    def rows(self) -> int:
        """Rows of all its alignments."""
        return sum(len(msa.rows) for msa in self.record.msas)


@dataclass(frozen=True)
class Bin:
    """One length bin, both ends inclusive, and the protein that stands for it. ``protein``: empty where none does; ``note`` says why."""

    shortest: int
    longest: int
    protein: str
    note: str


@dataclass(frozen=True)
class Selection:
    """The proteins by length, and which bin each stands for."""

    proteins: tuple[GateProtein, ...]
    bins: tuple[Bin, ...]


def select_proteins(store: Path | str | None, validation: Sequence[str], config: GateConfig, longest: int | None) -> Selection:
    """For each bin the longest chain of the store's ``validation`` chains, else of its others, else of the folder ``config.proteins``,
    else of the proteins that come with Foldline; at most ``longest`` residues, which is what the engine takes (None: any).

    Where none of them has ``config.deep_rows`` alignment rows, the shortest protein that has joins them. Raises FoldlineError where too few
    bins are covered or no alignment is deep enough, with what to add.
    """
    sources = _Sources(store, frozenset(validation), config)
    chosen: dict[str, GateProtein] = {}
    bins: list[Bin] = []
    beyond: list[Bin] = []
    for shortest, end in zip((1, *(limit + 1 for limit in config.bins)), config.bins, strict=False):
        if longest is not None and shortest > longest:
            beyond.append(Bin(shortest, end, "", f"beyond the engine's {longest} residues"))
            continue
        reach = end if longest is None else min(end, longest)
        found = sources.first(lambda c, low=shortest, high=reach: low <= c.residues <= high, lambda c: -c.residues)  # type: ignore[misc]
        if found is not None:
            chosen[found.name] = found
        bins.append(Bin(shortest, end, found.name if found else "", "" if found else "no protein of this length"))
    _require_bins(bins, config)
    if config.deep_rows and not any(protein.rows >= config.deep_rows for protein in chosen.values()):
        deep = sources.first(lambda c: c.rows >= config.deep_rows and c.residues <= (longest or c.residues), lambda c: c.residues)
        if deep is None:
            raise FoldlineError(
                f"the gate needs a protein with an alignment of at least {config.deep_rows} rows"
                + (f" and at most {longest} residues" if longest else "")
                + "; give a folder that has one with --proteins, or lower export.gate.deep_rows"
            )
        chosen[deep.name] = deep
    return Selection(tuple(sorted(chosen.values(), key=lambda p: (p.residues, p.name))), (*bins, *beyond))


class _Sources:
    """The candidates by origin; a folder is read when an origin before it had nothing."""

    def __init__(self, store: Path | str | None, validation: frozenset[str], config: GateConfig) -> None:
        self._readers: dict[str, Callable[[], Iterable[Candidate]]] = {}
        if store is not None:
            opened = Store.open(store)
            self._readers["validation"] = lambda: _of_store(opened, "validation", (n for n in opened.chain_ids if n in validation))
            self._readers["store"] = lambda: _of_store(opened, "store", (n for n in opened.chain_ids if n not in validation))
        if config.proteins:
            self._readers["given"] = lambda: _of_folder(Path(config.proteins), "given")
        self._readers["bundled"] = lambda: _of_folder(BUNDLED, "bundled")
        self._known: dict[str, list[Candidate]] = {}

    def first(self, fits: Callable[[Candidate], bool], order: Callable[[Candidate], int]) -> GateProtein | None:
        """The first candidate that fits and can be compared with an experiment: by origin, then ``order``, then name."""
        for origin in ORIGINS:
            if origin not in self._readers:
                continue
            if origin not in self._known:
                self._known[origin] = list(self._readers[origin]())
            for candidate in sorted(filter(fits, self._known[origin]), key=lambda c: (order(c), c.name)):
                record = candidate.read()
                if record is not None:
                    return GateProtein(record, origin)
        return None


def _of_store(store: Store, origin: str, names: Iterable[str]) -> Iterator[Candidate]:
    lengths = dict(zip(store.chain_ids, store.lengths, strict=True))
    for name in names:
        yield Candidate(name, int(lengths[name]), store.msa_depth(name), origin, partial(_stored, store, name))


def _stored(store: Store, name: str) -> ChainRecord | None:
    """A distillation entry is a prediction: nothing to measure lDDT against."""
    record = store.record(name) if store.metadata(name).source == "experimental" else None
    return record if record is not None and _resolved(record) else None


def _of_folder(folder: Path, origin: str) -> Iterator[Candidate]:
    for record in read_fold_input(folder):
        name = record.metadata.chain_id
        if not _resolved(record):
            raise FoldlineError(f"{folder}: the gate compares '{name}' with its experimental structure; put {name}.cif or .pdb beside it")
        yield Candidate(name, len(record.sequence), sum(len(msa.rows) for msa in record.msas), origin, partial(_itself, record))


def _itself(record: ChainRecord) -> ChainRecord:
    return record


def _resolved(record: ChainRecord) -> bool:
    return bool((record.mask[:, CA] > 0).sum() >= FEWEST_RESIDUES)


def _require_bins(bins: Sequence[Bin], config: GateConfig) -> None:
    """As many bins as the config says are covered, or all of ``bins``: those that the engine's sizes reach."""
    empty = [b for b in bins if not b.protein]
    if len(bins) - len(empty) < min(config.covered_bins, len(bins)):
        lengths = ", ".join(f"{b.shortest} to {b.longest}" for b in empty)
        raise FoldlineError(
            f"the gate has no protein of {lengths} residues, and export.gate.covered_bins = {config.covered_bins}; give a folder of A3M "
            "files with their structures with --proteins, or lower export.gate.covered_bins"
        )
