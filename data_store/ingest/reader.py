"""One entry of a listing -> records, each with its outcome: what cannot be stored ends with a reason, never with an exception."""

from __future__ import annotations

import dataclasses
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import FoldlineError
from ..metadata_table import with_overrides
from ..parse.a3m import ParsedA3m, read_a3m
from ..parse.hhr import read_hhr
from ..parse.hmmsearch import read_hmmsearch
from ..parse.stockholm import read_stockholm
from ..parse.structure import ParsedChain, ParsedStructure, read_structure
from ..parse.text import stem_and_kind
from ..residues import GAP
from ..sources import NAMED_CHAIN, make_record
from ..templates.featurize import build_templates
from ..templates.hit import TemplateHit
from ..templates.limits import TemplateLimits
from ..templates.structures import TemplateStructures
from ..types import ChainMetadata, ChainRecord
from .entry import Entry, Wanted
from .files import HITS, STOCKHOLM
from .outcome import Outcome, quarantined, stored
from .reasons import template_class

Read = tuple[Outcome, ChainRecord | None]


@dataclass(frozen=True)
class Options:
    """What the user asked for: the folder of template structures (None: hits are not used), the last date of a template, chains to skip."""

    templates: Path | None = None
    max_template_date: str = ""
    existing: frozenset[str] = frozenset()


class Reader:
    """Reads entries one after another; keeps the template structures that it used last."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._templates = None if options.templates is None else TemplateStructures(options.templates)

    def read(self, entry: Entry) -> Iterator[Read]:
        """Every chain of ``entry``: stored and repaired ones with their record, skipped and quarantined ones without."""
        try:
            yield from self._read(entry)
        except FoldlineError as error:
            for name in [entry.name] if entry.rest else [wanted.chain_id for wanted in entry.wanted]:
                yield quarantined(name, str(error)), None
        except Exception as error:  # a fault of ours costs one entry, not the days of work beside it
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}, line {place.lineno}"
            reason = f"unexpected {type(error).__name__}: {error} ({where}); please report it with the file"
            yield quarantined(entry.name, " ".join(reason.split())), None

    def _read(self, entry: Entry) -> Iterator[Read]:
        existing = self._options.existing
        if not entry.rest and all(wanted.chain_id in existing for wanted in entry.wanted):
            yield from ((_skipped(wanted.chain_id), None) for wanted in entry.wanted)
            return
        structure = read_structure(entry.structure)
        for wanted in _all_wanted(entry, structure):
            if isinstance(wanted, Outcome):
                yield wanted, None
            elif wanted.chain_id in existing:
                yield _skipped(wanted.chain_id), None
            else:
                try:
                    yield self._record(entry, wanted, structure)
                except FoldlineError as error:
                    yield quarantined(wanted.chain_id, str(error)), None

    def _record(self, entry: Entry, wanted: Wanted, structure: ParsedStructure) -> Read:
        alignments, notes = _alignments(wanted)
        overrides = {"source": entry.source, **entry.overrides.get(wanted.chain_id, {})}
        predicted = overrides["source"] == "distillation"
        chain = _chain(entry, wanted, structure)
        record, more = make_record(wanted.chain_id, chain, structure, alignments, predicted=predicted)
        record = dataclasses.replace(record, metadata=with_overrides(record.metadata, overrides))
        record, passed_over = self._with_templates(record, wanted)
        outcome = stored(record, (*notes, *more))
        if outcome.facts is not None:
            outcome = dataclasses.replace(outcome, facts=dataclasses.replace(outcome.facts, passed_over=passed_over))
        return outcome, record

    def _with_templates(self, record: ChainRecord, wanted: Wanted) -> tuple[ChainRecord, dict[str, int]]:
        """``record`` with its hits as templates, and how many hits were passed over for which class of reason."""
        if not wanted.hits:
            return record, {}
        if self._templates is None:
            return record, {"no folder of template structures was given (--templates)": len(wanted.hits)}
        limits = self._limits(record.metadata)
        if not limits.last_date:
            return record, {"neither the chain nor --max-template-date sets a last release date": len(wanted.hits)}
        hits = [hit for path in wanted.hits for hit in _hits(path, record.sequence)]
        templates, notes = build_templates(record.sequence, hits, self._templates, limits)
        return dataclasses.replace(record, templates=templates), dict(Counter(map(template_class, notes)))

    def _limits(self, metadata: ChainMetadata) -> TemplateLimits:
        return TemplateLimits(
            max_release_date=self._options.max_template_date, query_release_date=metadata.release_date, query_pdb_id=metadata.pdb_id
        )


def _skipped(name: str) -> Outcome:
    return Outcome(name, "skipped", "already in the store")


def _all_wanted(entry: Entry, structure: ParsedStructure) -> Iterator[Wanted | Outcome]:
    """The chains to store: those that are named, then the structure's others where the entry takes them all."""
    named = {wanted.chain: wanted for wanted in entry.wanted}
    if not entry.rest:
        yield from entry.wanted
        return
    for name in structure.chains:
        chain_id = f"{entry.name}_{name}"
        if chain_id in entry.taken:
            continue
        own = named.pop(name, None)
        if own is None and "" in named and len(structure.chains) == 1:
            own = named.pop("")
        yield dataclasses.replace(own, chain_id=chain_id, chain=name) if own else Wanted(chain_id, name)
    for chain, wanted in named.items():
        for path in (*wanted.msas, *wanted.hits) if wanted.chain_id not in entry.taken else ():
            chains = ", ".join(structure.chains)
            example = f"{entry.name}_{next(iter(structure.chains))}"
            what = (
                f"{entry.structure.name} has no protein chain '{chain}'" if chain else f"{entry.structure.name} has several protein chains"
            )
            yield quarantined(path.name, f"{what}: its protein chains are {chains}; name the file after one of them ({example})")


def _chain(entry: Entry, wanted: Wanted, structure: ParsedStructure) -> ParsedChain:
    if wanted.chain in structure.chains:
        return structure.chains[wanted.chain]
    chains = ", ".join(structure.chains)
    if wanted.chain:
        raise FoldlineError(
            f"{entry.structure.name} has no protein chain '{wanted.chain}': its protein chains are {chains}; name one of them"
        )
    if len(structure.chains) == 1:
        return next(iter(structure.chains.values()))
    named = NAMED_CHAIN.fullmatch(wanted.chain_id)
    if named and named[2] in structure.chains:
        return structure.chains[named[2]]
    raise FoldlineError(f"{entry.structure.name} has several protein chains ({chains}); name the one that is meant")


def _alignments(wanted: Wanted) -> tuple[list[tuple[str, ParsedA3m]], tuple[str, ...]]:
    """(name, alignment) of each file that holds one, and notes on those that are empty: a search without hits writes such files."""
    parsed: list[tuple[str, ParsedA3m]] = []
    notes: list[str] = []
    for path in wanted.msas:
        stem, kind = stem_and_kind(path)
        label = stem.removeprefix(wanted.chain_id).lstrip("._-") or kind[1:]
        if len(wanted.msas) > 1 and _is_empty(path):
            notes.append(f"{path.name} is empty: left out")
            continue
        alignment = read_stockholm(path) if kind in STOCKHOLM else read_a3m(path)
        parsed.append((label, alignment if wanted.columns is None else _columns(alignment, *wanted.columns)))
    if wanted.msas and not parsed:
        raise FoldlineError(f"all of its {len(wanted.msas)} alignments are empty; search again")
    return parsed, tuple(notes)


def _is_empty(path: Path) -> bool:
    return path.stat().st_size == 0


def _columns(alignment: ParsedA3m, start: int, stop: int) -> ParsedA3m:
    """The part of a complex's alignment that is one chain's; rows with nothing but gaps in it are left out."""
    if stop > alignment.rows.shape[1]:
        raise FoldlineError(f"its alignment has {alignment.rows.shape[1]} columns, its first line promises at least {stop}")
    rows, deletions = alignment.rows[:, start:stop], alignment.deletions[:, start:stop]
    keep = (rows != GAP).any(axis=1)
    names = tuple(name for name, kept in zip(alignment.names, keep, strict=True) if kept)
    return ParsedA3m(names, rows[keep], deletions[keep], alignment.notes)


def _hits(path: Path, query: str) -> tuple[TemplateHit, ...]:
    return read_hhr(path) if stem_and_kind(path)[1] in HITS else read_hmmsearch(path, query)
