"""The programs hhblits (alignments) and hhsearch (templates), with AF2's options."""

from __future__ import annotations

from pathlib import Path

from .alignment import Row, a3m_text, read_rows, without_repeats
from .databases import Database
from .options import Options
from .parameters import Parameters
from .programs import find_program, run_program
from .queries import Query


def search_msa(query: Query, database: Database, parameters: Parameters, options: Options, work: Path) -> list[Row]:
    """hhblits: rows in the query's columns, the query first. ``work`` is an empty folder. Raises as ``run_program`` does."""
    source, result = work / "query.fasta", work / "result.a3m"
    source.write_text(f">{query.name}\n{query.sequence}\n")
    command = ["-i", source, "-oa3m", result, "-o", "/dev/null", *_flags(parameters, database, options)]
    run_program([find_program("hhblits"), *command], work / "log", options.timeout)
    return read_rows(result.read_bytes(), f"hhblits' result for {query.name}")


def search_templates(rows: list[Row], database: Database, parameters: Parameters, options: Options, work: Path) -> tuple[bytes, int]:
    """hhsearch with an alignment: the text of its .hhr file and the number of hits."""
    source, result = work / "query.a3m", work / "result.hhr"
    source.write_bytes(a3m_text(without_repeats(rows)))
    command = ["-i", source, "-o", result, *_flags(parameters, database, options)]
    run_program([find_program("hhsearch"), *command], work / "log", options.timeout)
    data = result.read_bytes()
    return data, data.count(b"\n>")


def _flags(parameters: Parameters, database: Database, options: Options) -> list[str | Path]:
    flags: list[str | Path] = ["-v", "1", "-cpu", str(options.threads)]
    for name, value in parameters.items():
        flags += [f"-{name}", str(value)]
    for path in database.paths:
        flags += ["-d", path]
    return flags
