"""`foldline search`: checks first, then the queries over workers, one line per query, and a count at the end."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from ...errors import FoldlineError
from ..pool import worker_pool
from .databases import check_databases
from .options import Options
from .plan import Plan, make_plan
from .queries import Query, read_queries, shard
from .work import Outcome, search_unit

_BATCH = 256  # queries of one MMseqs2 run; what a killed run loses at most per worker
TEMPLATES = "pdb"


@dataclass(frozen=True)
class Request:
    """The command line, as `data_store/arguments.py` explains it."""

    query: Path
    out: Path
    databases: Sequence[str]
    template_db: str | None = None
    tool: str = "auto"
    profile: str | None = None
    iterations: int = 1
    max_rows: Sequence[str] = ()
    workers: int = 1
    threads: int | None = None
    mpi: bool = False
    shard: str = "0/1"
    timeout: float | None = None
    memory: float = 2.0
    gpu_server: bool = False


def search_command(request: Request) -> int:
    """Search all queries. 0: all have their results; 1: some were rejected or failed, each named on stderr.

    Raises FoldlineError before any work for a database, tool, option or query file that cannot be used.
    """
    with worker_pool(request.workers, request.mpi) as pool:
        queries, rejected = read_queries(request.query)
        for bad in rejected:
            print(f"foldline: query {bad.name} left out: {bad.reason}", file=sys.stderr)
        queries = shard(queries, request.shard)
        plan = _plan(request)
        if not queries and request.shard == "0/1":
            raise FoldlineError(f"{request.query} holds no query that can be searched; see the reasons above")
        for search in plan.searches:
            size = sum(entry["bytes"] for entry in search.database.identity.files)
            print(f"{search.database.name}: {search.database.paths[0]} ({size / 1e6:,.1f} MB), {search.tool} {search.version}")
        outcomes = _search(pool, plan, queries, _unit_size(plan, queries, request))
    failed = sum(bool(outcome.error) for outcome in outcomes)
    searched = sum(outcome.searched and not outcome.error for outcome in outcomes)
    kept = len(outcomes) - searched - failed
    print(f"{searched} searched, {kept} already there, {failed} failed, {len(rejected)} left out; results in {request.out}")
    return 1 if failed or rejected else 0


def _plan(request: Request) -> Plan:
    if request.iterations < 1:
        raise FoldlineError(f"--iterations {request.iterations}: at least one pass must be made")
    if request.threads is not None and request.threads < 1:
        raise FoldlineError(f"--threads {request.threads}: at least one must search; leave it out to share the cores among the workers")
    if request.timeout is not None and not request.timeout > 0:
        raise FoldlineError(f"--timeout {request.timeout:g} must be above 0 seconds; leave it out for none")
    if not request.memory >= 0:
        raise FoldlineError(f"--memory {request.memory:g} must be at least 0 GiB; 0 streams every database")
    names = [text.partition("=")[0] for text in request.databases]
    if request.template_db is not None and TEMPLATES in names:
        raise FoldlineError(f"--db {TEMPLATES}=…: the name {TEMPLATES} belongs to --template-db; choose another")
    # Ranks of one node share its cores, and how many there are is known to the job script alone.
    threads = request.threads or (1 if request.mpi else max(1, _cores() // request.workers))
    options = Options(threads, request.timeout, request.memory, request.gpu_server)
    wanted = [*request.databases, *([f"{TEMPLATES}={request.template_db}"] if request.template_db is not None else [])]
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FoldlineError(f"--out {request.out} cannot be made: {error.strerror}") from None
    found = check_databases(wanted, request.out / ".databases.json")
    msas = found[: len(request.databases)]
    templates = found[-1] if request.template_db is not None else None
    limits = dict(_limit(text) for text in request.max_rows)
    return make_plan(
        msas, templates, request.tool, options, request.out, iterations=request.iterations, max_rows=limits, profile=request.profile
    )


def _limit(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not name or not number.isdigit():
        raise FoldlineError(f"--max-rows {text!r} is not name=N with a whole number (0: all)")
    return name, int(number)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _unit_size(plan: Plan, queries: Sequence[Query], request: Request) -> int:
    """One query per unit, but many where MMseqs2 runs, whose cost is that of reading the database."""
    workers = 1 if request.mpi else request.workers
    return min(_BATCH, math.ceil(len(queries) / workers)) if plan.batched and queries else 1


def _search(pool: Executor, plan: Plan, queries: Sequence[Query], size: int) -> list[Outcome]:
    units = [queries[start : start + size] for start in range(0, len(queries), size)]
    outcomes: list[Outcome] = []
    waiting: list[Future[list[Outcome]]] = []
    try:
        for unit in units:
            future = pool.submit(search_unit, plan, unit)
            if future.done():
                outcomes += _told(future.result())
            else:
                waiting.append(future)
        for future in as_completed(waiting):
            outcomes += _told(future.result())
    except BrokenProcessPool:
        raise FoldlineError(
            f"a worker was killed, probably for memory, after {len(outcomes)} of {len(queries)} queries; "
            "give fewer --workers or less --memory and run the same command again: what is done is kept"
        ) from None
    return outcomes


def _told(outcomes: list[Outcome]) -> list[Outcome]:
    """Print a line per query."""
    for outcome in outcomes:
        for what in outcome.redone:
            print(f"{outcome.name}: searched again: {what}")
        if outcome.error:
            print(f"foldline: query {outcome.name} failed: {outcome.error}", file=sys.stderr, flush=True)
            continue
        counts = ", ".join(f"{name} {rows}" for name, rows in outcome.rows.items())
        state = f"{outcome.seconds:.1f} s" if outcome.searched else "already there"
        print(f"{outcome.name}: {counts} rows ({state})", flush=True)
    return outcomes
