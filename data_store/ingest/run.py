"""`foldline ingest`: sources become a store; units are made side by side, a run that was stopped goes on where it was."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from ...errors import FoldlineError
from ..places import writing
from ..pool import worker_pool
from ..store import Store
from ..templates.limits import TemplateLimits
from ..writer import append_parts, commit_store, refuse_existing, refuse_place
from .entry import Listing
from .layouts import AUTO, list_sources
from .outcome import Outcome, quarantined
from .page import write_report
from .plan import Unit, make_units
from .reader import Options
from .reasons import quarantine_class
from .report import IngestReport
from .work import read_result, replace_text
from .workers import run_units

_REASONS_IN_ERROR = 5
_COMMIT = "commit"  # every outcome, written before the store is committed

Progress = Callable[[int, int, str], None]  # structure files done, all of them, one just done
Say = Callable[[str], None]  # a line about the run itself


@dataclass(frozen=True)
class IngestSettings:
    """How to ingest. ``structures``: where alignment archives find their structures; ``templates``: folder of template structures;
    ``report``: folder of the report, None = STORE.report."""

    append: bool = False
    workers: int = 1
    mpi: bool = False
    layout: str = AUTO
    structures: Path | None = None
    templates: Path | None = None
    max_template_date: str = ""
    report: Path | None = None


def ingest(
    source: Path | Sequence[Path],
    store: Path,
    settings: IngestSettings | None = None,
    *,
    progress: Progress | None = None,
    say: Say = lambda line: None,
) -> IngestReport:
    """Build the store ``store`` from ``source``, or add to it, and write the report (see docs/data.md for what is read).

    Raises FoldlineError, leaving nothing behind, when ``store`` exists (without ``append``: it must), a source is not what its layout
    says, a setting is wrong, or no entry can be stored. A run that is killed leaves ``.NAME.partial`` beside ``store``; the next run of the
    same sources goes on from it and ends with the same store.
    """
    settings = settings or IngestSettings()
    sources = [source] if isinstance(source, Path) else list(source)
    if settings.workers < 1:
        raise FoldlineError(f"--workers {settings.workers}: at least one worker must do the work")
    if settings.mpi:
        with worker_pool(1, True) as pool:
            return _Run(sources, store, settings, say).finish(progress, pool)
    return _Run(sources, store, settings, say).finish(progress, None)


class _Run:
    """One ingest: what is to be done, and what an earlier run of it left."""

    def __init__(self, sources: Sequence[Path], store: Path, settings: IngestSettings, say: Say) -> None:
        TemplateLimits(max_release_date=settings.max_template_date)  # refuses what is no date
        self.store, self.settings, self.say = store, settings, say
        self.report = settings.report or store.with_name(f"{store.name}.report")
        if self.report.exists() and not self.report.is_dir():
            raise FoldlineError(f"{self.report} is a file; give --report a folder for report.html and report.json")
        self.partial = store.absolute().parent / f".{store.name}.partial"
        self.options, state = self._options()
        self.listings = list_sources(sources, settings.layout, settings.structures)
        entries = [entry for listing in self.listings for entry in listing.entries]
        if not entries:
            raise FoldlineError(_nothing_to_store(sources, self.listings))
        kept = {"templates": str(settings.templates), "max_template_date": settings.max_template_date, "store": state}
        self.units = make_units(entries, kept)

    def finish(self, progress: Progress | None, pool: Executor | None) -> IngestReport:
        """Make the units that are not made, commit the store, write the report."""
        with _claimed(self.partial):
            report = self._committed() or self._make(progress, pool)
            with writing(self.report):
                write_report(report, self.report, self.store)
            shutil.rmtree(self.partial)
        return report

    def _make(self, progress: Progress | None, pool: Executor | None) -> IngestReport:
        done = self._resume()
        count = _counted(progress, self.units)
        for unit in self.units:
            if unit.key in done:
                count(unit)
        todo = [unit for unit in self.units if unit.key not in done]
        run_units(self.partial, todo, self.options, self.settings.workers, pool, count)
        results = [read_result(self.partial, unit.key) or {} for unit in self.units]
        outcomes = [Outcome.from_json(data) for result in results for data in result["outcomes"]]
        outcomes += self._judged(outcomes)
        report = IngestReport.of(outcomes, self.listings)
        parts = [self.partial / name for result in results for name in result["parts"]]
        if not parts and not report.skipped:
            shutil.rmtree(self.partial)
            raise FoldlineError(f"the source has no entry that can be stored ({_some(report.quarantined)})")
        replace_text(self.partial / _COMMIT, json.dumps({"plan": self._plan(), "outcomes": [outcome.to_json() for outcome in outcomes]}))
        if parts and self.settings.append:
            append_parts(self.store, parts)
        elif parts:
            commit_store(self.store, parts)
        return report

    def _committed(self) -> IngestReport | None:
        """The report of an earlier run that was killed behind its commit: the store is there, its report and its cleaning up are not."""
        note = self.partial / _COMMIT
        if self.settings.append or not os.path.lexists(self.store):
            note.unlink(missing_ok=True)
            return None
        data = json.loads(note.read_text()) if note.is_file() else {}
        outcomes = [Outcome.from_json(outcome) for outcome in data.get("outcomes", ())]
        report = IngestReport.of(outcomes, self.listings)
        kept = {outcome.name for outcome in (*report.stored, *report.repaired)}
        if data.get("plan") != self._plan() or kept != set(Store.open(self.store).chain_ids):
            refuse_existing(self.store)
        self.say("an earlier run had committed the store already: its report follows")
        return report

    def _plan(self) -> str:
        return hashlib.sha256("".join(unit.key for unit in self.units).encode()).hexdigest()

    def _options(self) -> tuple[Options, str]:
        """The readers' options, and what of the store's state their results depend on."""
        existing, state = frozenset[str](), ""
        if self.settings.append:
            there = Store.open(self.store)
            existing, state = frozenset(there.chain_ids), there.content_hash
        elif not (self.partial / _COMMIT).is_file():
            refuse_place(self.store)
        templates = self.settings.templates
        if templates is not None and not templates.is_dir():
            raise FoldlineError(f"--templates {templates} is not a folder; give the folder that holds PDBID.cif files")
        return Options(None if templates is None else templates.absolute(), self.settings.max_template_date, existing), state

    def _resume(self) -> set[str]:
        """Keys of the units that an earlier run finished; files of others are removed, and what is done again is said."""
        keys = {unit.key for unit in self.units}
        done = {key for key in keys if read_result(self.partial, key) is not None}
        stale = [path.stem for path in self.partial.glob("*.json") if path.stem not in keys]
        before = {n: d for key in stale for n, d in (read_result(self.partial, key) or {}).get("entries", {}).items()}
        for path in self.partial.iterdir():
            key = path.name.split(".")[0].split("-")[0]
            if key not in done and not (path.suffix == ".at" and key in keys):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        now = {entry.name: digest for unit in self.units for entry, digest in zip(unit.entries, unit.digests, strict=True)}
        changed = sorted(name for name, digest in before.items() if now.get(name, "") != digest)
        if done or before:
            self.say(f"an earlier run finished {len(done)} of {len(self.units)} units: they are kept")
        if before:
            names = ", ".join(changed[:_REASONS_IN_ERROR]) + (
                f" and {len(changed) - _REASONS_IN_ERROR} more" if changed[_REASONS_IN_ERROR:] else ""
            )
            what = f"the source changed since ({names})" if changed else "entries were added or the settings changed since"
            self.say(f"{what}: the units that this concerns are made again")
        return done

    def _judged(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """What was known without reading, and the rows of tables that name no entry."""
        names = {outcome.name for outcome in outcomes} | {o.name for listing in self.listings for o in listing.outcomes}
        judged = [outcome for listing in self.listings for outcome in listing.outcomes]
        for listing in self.listings:
            judged += [quarantined(n, f"named in {table}, but there is no such entry") for n, table in listing.promised if n not in names]
        return judged


def _counted(progress: Progress | None, units: Sequence[Unit]) -> Callable[[Unit], None]:
    """A function to call with each finished unit, which tells ``progress`` how many entries are done."""
    total, done = sum(len(unit.entries) for unit in units), 0

    def count(unit: Unit) -> None:
        nonlocal done
        done += len(unit.entries)
        if progress is not None:
            progress(done, total, unit.entries[-1].name)

    return count


@contextlib.contextmanager
def _claimed(partial: Path) -> Iterator[None]:
    """The folder of unfinished work, ours alone: its lock goes with the process, so a killed run leaves no lock behind."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FoldlineError(f"{partial.parent} cannot be made a folder for the store: {error.strerror}; give another path") from None
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FoldlineError(f"another process is writing this store ({partial} is locked); wait for it or give another path") from None
        yield
    finally:
        os.close(descriptor)


def _nothing_to_store(sources: Sequence[Path], listings: Sequence[Listing]) -> str:
    where = ", ".join(map(str, sources))
    reasons = _some([outcome for listing in listings for outcome in listing.outcomes])
    if not reasons and all(source.is_file() for source in sources):
        return f"{where} lists no entry; give a line for each below the one that names the columns"
    needs = "ingest needs NAME.cif or NAME.pdb (or .gz) with NAME.a3m beside it, or one of the layouts that --layout names"
    return f"{where} holds no structure; {needs}{f' ({reasons})' if reasons else ''}"


def _some(outcomes: Sequence[Outcome]) -> str:
    """The first reasons, one of each class before a second of any, and how many there are besides."""
    first: dict[str, Outcome] = {}
    for outcome in outcomes:
        first.setdefault(quarantine_class(outcome.reason), outcome)
    shown = list(first.values())[:_REASONS_IN_ERROR]
    more = len(outcomes) - len(shown)
    return "; ".join(f"{o.name}: {o.reason}" for o in shown) + (f"; and {more} more" if more > 0 else "")
