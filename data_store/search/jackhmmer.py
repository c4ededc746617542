"""The jackhmmer program, with AF2's options."""

from __future__ import annotations

from pathlib import Path

from .alignment import Row, read_stockholm_rows
from .databases import Database
from .options import Options
from .parameters import Parameters
from .programs import find_program, run_program
from .queries import Query


def search_msa(query: Query, database: Database, parameters: Parameters, options: Options, work: Path) -> list[Row]:
    """Rows in the query's columns, the query first, then by E-value. ``work`` is an empty folder. Raises as ``run_program`` does."""
    source, result = work / "query.fasta", work / "result.sto"
    source.write_text(f">{query.name}\n{query.sequence}\n")
    command: list[str | Path] = [find_program("jackhmmer"), "-o", "/dev/null", "--noali", "-A", result]
    for name in ("E", "incE", "incdomE", "F1", "F2", "F3"):
        command += [f"-{name}" if len(name) == 1 else f"--{name}", str(parameters[name])]
    # One thread reads beside those that search.
    command += ["--cpu", str(max(0, options.threads - 1)), "-N", str(parameters["iterations"]), source, database.paths[0]]
    run_program(command, work / "log", options.timeout)
    return read_stockholm_rows(result, query.name)
