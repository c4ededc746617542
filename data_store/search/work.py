"""One unit of work: some queries through all searches of the plan, each result kept as soon as it is there."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import FoldlineError
from ...whole_file import write_atomic
from . import hhsuite, jackhmmer, mmseqs, pyhmmer
from .alignment import Row, a3m_text, read_rows
from .plan import Plan, Search
from .provenance import Provenance
from .queries import Query

_FIRST = "not searched yet"


@dataclass
class Outcome:
    """What became of a query: rows per database, why old results were replaced, and the error that ended it, if any."""

    name: str
    rows: dict[str, int] = field(default_factory=dict)
    redone: list[str] = field(default_factory=list)
    searched: bool = False
    seconds: float = 0.0
    error: str = ""


def search_unit(plan: Plan, queries: Sequence[Query]) -> list[Outcome]:
    """Search what is not there yet. An error of one query is its outcome's; the others go on."""
    outcomes = {query.name: Outcome(query.name) for query in queries}
    records: dict[str, Provenance] = {}
    for query in queries:
        with _reported(outcomes[query.name]):
            records[query.name] = _begin(plan, query, outcomes[query.name])
    _search_batch(plan, [query for query in queries if query.name in records], records, outcomes)
    for query in queries:
        outcome = outcomes[query.name]
        if not outcome.error:
            with _reported(outcome):
                _search_rest(plan, query, records[query.name], outcome)
    return list(outcomes.values())


def _begin(plan: Plan, query: Query, outcome: Outcome) -> Provenance:
    folder = plan.out / query.name
    folder.mkdir(parents=True, exist_ok=True)
    record = Provenance(folder, query, plan.searches)
    for search in plan.searches:
        reason = record.reason(search)
        if reason and reason != _FIRST:
            outcome.redone.append(f"{search.database.name} ({reason})")
    fasta = plan.out / f"{query.name}.fasta"
    if not fasta.is_file() or fasta.read_text() != query.fasta:
        write_atomic(fasta, query.fasta)
    return record


def _search_batch(plan: Plan, queries: Sequence[Query], records: dict[str, Provenance], outcomes: dict[str, Outcome]) -> None:
    """MMseqs2 databases, all queries in one run; where that fails, each query alone, so that only the culprit fails."""
    group = plan.batched
    todo = [query for query in queries if any(records[query.name].reason(search) for search in group)]
    if not todo:
        return
    start = time.monotonic()
    try:
        with _work_folder(plan.out / f".work-{todo[0].name}", plan.out / todo[0].name / "mmseqs.log") as work:
            databases = [search.database for search in group]
            found = mmseqs.search_msas(todo, databases, group[0].parameters, plan.options, work)
    except Exception as error:
        if len(todo) == 1:
            outcomes[todo[0].name].error = _said(error)
        for query in todo if len(todo) > 1 else ():
            _search_batch(plan, [query], records, outcomes)
        return
    share = (time.monotonic() - start) / len(todo) / len(group)
    for query in todo:
        with _reported(outcomes[query.name]):
            for search in group:
                _keep_rows(search, found[search.database.name][query.name], records[query.name], share, outcomes[query.name])


def _search_rest(plan: Plan, query: Query, record: Provenance, outcome: Outcome) -> None:
    """All other databases of one query, then its templates."""
    folder = plan.out / query.name
    for search in plan.msas:
        if record.reason(search):
            start = time.monotonic()
            with _work_folder(folder / ".work", folder / f"{search.database.name}.log") as work:
                rows = _search_msa(search, query, plan, work)
            _keep_rows(search, rows, record, time.monotonic() - start, outcome)
        outcome.rows[search.database.name] = record.rows(search)
    if plan.templates is not None:
        _search_templates(plan, plan.templates, query, record, outcome)


def _search_msa(search: Search, query: Query, plan: Plan, work: Path) -> list[Row]:
    if search.tool == "pyhmmer":
        return pyhmmer.search_msa(query, search.database, search.parameters, plan.options)
    program = {"jackhmmer": jackhmmer.search_msa, "hhblits": hhsuite.search_msa}[search.tool]
    parameters = {name: value for name, value in search.parameters.items() if name != "max_rows"}
    return program(query, search.database, parameters, plan.options, work)


def _search_templates(plan: Plan, search: Search, query: Query, record: Provenance, outcome: Outcome) -> None:
    folder = plan.out / query.name
    if record.reason(search):
        assert search.profile is not None
        start = time.monotonic()
        rows = read_rows((folder / search.profile.output).read_bytes(), search.profile.output)
        with _work_folder(folder / ".work", folder / f"{search.database.name}.log") as work:
            if search.tool == "pyhmmer":
                data, hits = pyhmmer.search_templates(rows, query, search.database, search.parameters, plan.options)
            else:
                data, hits = hhsuite.search_templates(rows, search.database, search.parameters, plan.options, work)
        record.add(search, data, hits, time.monotonic() - start)
        outcome.searched, outcome.seconds = True, outcome.seconds + time.monotonic() - start
    outcome.rows[search.database.name] = record.rows(search)


def _keep_rows(search: Search, rows: list[Row], record: Provenance, seconds: float, outcome: Outcome) -> None:
    kept = rows[: search.parameters["max_rows"] or None]
    record.add(search, a3m_text(kept), len(kept), seconds)
    outcome.searched, outcome.seconds = True, outcome.seconds + seconds


@contextlib.contextmanager
def _reported(outcome: Outcome) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        outcome.error = _said(error)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, FoldlineError) else f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _work_folder(path: Path, log: Path) -> Iterator[Path]:
    """An empty folder for a program, gone afterwards; what it said is kept in ``log`` where it failed. A killed run's is replaced."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    log.unlink(missing_ok=True)
    try:
        yield path
    except Exception:
        if (path / "log").is_file():
            shutil.copyfile(path / "log", log)
        raise
    finally:
        shutil.rmtree(path, ignore_errors=True)
