"""An array's tasks divide a search or an ingest: each does a part of its own, by options that these commands have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...errors import FoldlineError
from .script import Work
from .spec import JobSpec

TABLES = (".csv", ".tsv")


def shard(spec: JobSpec, work: Work) -> Work:
    """``work`` with what each of ``spec.array`` tasks gets: `search` by its --shard, `ingest` by its sources, each into a store of its own.

    Raises FoldlineError for an ingest that cannot be divided.
    """
    if work.command[0] == "search":
        if "--shard" in work.command:
            raise FoldlineError("--array gives each task its --shard; leave it out")
        return replace(work, task_arguments=f'--shard "$task/{spec.array}"')
    sources, store, rest = _ingest(work.command)
    if spec.scheduler == "kubernetes" and not all(path.startswith("/") for path in (store, *sources)):
        raise FoldlineError(f"{', '.join((store, *sources))}: pods know no relative paths; give absolute ones below a --mount")
    table = sources[0] if len(sources) == 1 and Path(sources[0]).suffix.lower() in TABLES else ""
    if table:
        parts = [[part] for part in part_names(Path(sources[0]), spec.array)]
    elif len(sources) >= spec.array:
        parts = [sources[number :: spec.array] for number in range(spec.array)]
    else:
        raise FoldlineError(
            f"--array {spec.array} has more tasks than the ingest has sources ({len(sources)}); give several folders, or one manifest "
            "(.csv, .tsv), which is divided by rows"
        )
    shards = tuple((*part, "--store", name) for part, name in zip(parts, store_names(store, spec.array), strict=True))
    merge = ("store", "merge", *store_names(store, spec.array), store)
    return replace(work, command=("ingest", *rest), shards=shards, merge=merge, table=table)


def part_names(table: Path, tasks: int) -> list[str]:
    """Where the rows of each task stand: beside the table, for the paths in it are relative to its folder."""
    return [str(table.with_name(f"{table.stem}.part-{number}-of-{tasks}{table.suffix}")) for number in range(tasks)]


def store_names(store: str, tasks: int) -> list[str]:
    """The store of each task."""
    return [f"{store}.part-{number}" for number in range(tasks)]


def divide_table(command: Sequence[str], tasks: int, cwd: Path) -> list[Path]:
    """Write each task's rows of an ingest's manifest, every ``tasks``-th from its own on; [] where the sources are folders.

    Raises FoldlineError for a table with fewer rows than tasks.
    """
    sources, _, _ = _ingest(command)
    if len(sources) != 1 or Path(sources[0]).suffix.lower() not in TABLES:
        return []
    table = cwd / sources[0]
    try:
        header, *rows = [line for line in table.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise FoldlineError(f"{table} cannot be divided among tasks: {error}") from None
    if len(rows) < tasks:
        raise FoldlineError(f"--array {tasks} has more tasks than {table} has rows ({len(rows)}); give at most so many")
    paths = [cwd / name for name in part_names(Path(sources[0]), tasks)]
    for number, path in enumerate(paths):
        path.write_text("\n".join([header, *rows[number::tasks]]) + "\n", encoding="utf-8")
    return paths


def _ingest(command: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Sources, store, and the rest of an ingest command line."""
    sources: list[str] = []
    rest: list[str] = []
    store, words = "", list(command[1:])
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name == "--store":
            store = value if equals else (words.pop(0) if words else "")
        elif name in ("--append", "--mpi", "--report"):
            raise FoldlineError(f"ingest {name} does not go with --array: each task makes a store of its own, which are merged at the end")
        elif word.startswith("-"):
            rest.append(word)
            if not equals and words:
                rest.append(words.pop(0))
        else:
            sources.append(word)
    if not store or not sources:
        raise FoldlineError("ingest needs its sources and --store STORE")
    return sources, store, rest
