"""Which program searches which database with which parameters: decided once, before any work, from what is installed and what was asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import FoldlineError
from .databases import Database
from .mmseqs import environment_faults
from .options import Options
from .parameters import HHBLITS, HHSEARCH, HMMSEARCH, JACKHMMER, MAX_ROWS, MMSEQS, Parameters
from .programs import find_program, has_option, program_version
from .pyhmmer import pyhmmer_version

# The programs that can search each kind of database, the choice of 'auto' first.
TOOLS: Mapping[str, tuple[str, ...]] = {"fasta": ("pyhmmer", "jackhmmer"), "mmseqs": ("mmseqs",), "hhsuite": ("hhblits",)}
_TEMPLATE_TOOLS = {"fasta": "pyhmmer", "hhsuite": "hhsearch"}
_KINDS = {"fasta": "FASTA", "mmseqs": "MMseqs2", "hhsuite": "HH-suite"}


@dataclass(frozen=True)
class Search:
    """One database, searched by one tool. ``parameters`` and ``version`` are all that decides the result beside query and database."""

    database: Database
    tool: str
    version: str
    parameters: Parameters
    output: str
    profile: Search | None = None

    def record(self, query_digest: str) -> dict[str, Any]:
        """What the result depends on, as it is kept in the provenance; equal records mean equal results."""
        told = {
            "tool": self.tool,
            "version": self.version,
            "parameters": json.loads(json.dumps(dict(self.parameters))),
            "database": self.database.identity.digest,
            "query": query_digest,
        }
        if self.profile is not None:
            text = json.dumps(self.profile.record(query_digest), sort_keys=True)
            told["alignment"] = {"database": self.profile.database.name, "sha256": hashlib.sha256(text.encode()).hexdigest()}
        return told


@dataclass(frozen=True)
class Plan:
    """All searches of a query; the order of ``msas`` is that of the command line. ``out`` holds a folder per query."""

    msas: tuple[Search, ...]
    templates: Search | None
    options: Options
    out: Path

    @property
    def searches(self) -> tuple[Search, ...]:
        """Alignments, then templates."""
        return self.msas if self.templates is None else (*self.msas, self.templates)

    @property
    def batched(self) -> tuple[Search, ...]:
        """Those that search many queries in one run."""
        return tuple(search for search in self.msas if search.tool == "mmseqs")


def make_plan(
    databases: Sequence[Database],
    template_database: Database | None,
    tool: str,
    options: Options,
    out: Path,
    *,
    iterations: int = 1,
    max_rows: Mapping[str, int] | None = None,
    profile: str | None = None,
) -> Plan:
    """The plan for all queries. ``tool`` other than 'auto' is used for the databases that it can search, and there must be one;
    the rest are searched by the one program that fits them. ``profile`` names the alignment that template searches start from
    (default: uniref90 as in AF2, else the first).

    Raises FoldlineError where a program is missing or cannot do what was asked.
    """
    names = [database.name for database in databases]
    if tool != "auto" and not any(tool in TOOLS[database.kind] for database in databases):
        kinds = ", ".join(sorted({_KINDS[database.kind] for database in databases}))
        needed = next(_KINDS[kind] for kind, tools in TOOLS.items() if tool in tools)
        raise FoldlineError(f"--tool {tool} searches {needed} databases, but only {kinds} was given; convert one or use --tool auto")
    unknown = [name for name in (*(max_rows or {}), *([profile] if profile else [])) if name not in names]
    if unknown:
        raise FoldlineError(
            f"there is no database '{unknown[0]}' among --db {', '.join(names)}; --max-rows and --profile name one of these"
        )
    limits = {**MAX_ROWS, **(max_rows or {})}
    msas = tuple(_msa_search(database, tool, limits.get(database.name, 0), iterations) for database in databases)
    if options.gpu_server:
        if not any(search.tool == "mmseqs" for search in msas):
            raise FoldlineError("--gpu-server is for MMseqs2 databases; none was given")
        fault = environment_faults(options, {"--gpu-server": has_option("mmseqs", "search", "--gpu-server")})
        if fault:
            raise FoldlineError(fault)
    if template_database is None:
        return Plan(msas, None, options, out)
    start = profile or ("uniref90" if "uniref90" in names else names[0])
    return Plan(msas, _template_search(template_database, msas[names.index(start)]), options, out)


def _msa_search(database: Database, tool: str, max_rows: int, iterations: int) -> Search:
    chosen = tool if tool in TOOLS[database.kind] else TOOLS[database.kind][0]
    own = {"pyhmmer": {**JACKHMMER, "iterations": iterations}, "hhblits": HHBLITS, "mmseqs": MMSEQS}
    parameters = {**own.get(chosen, own["pyhmmer"]), "max_rows": max_rows}
    if chosen == "jackhmmer" and database.compressed:
        raise FoldlineError(f"database {database.name}: jackhmmer cannot rewind gzip; unpack {database.paths[0]} or use --tool pyhmmer")
    return Search(database, chosen, _version(chosen), parameters, f"{database.name}_hits.a3m")


def _template_search(database: Database, profile: Search) -> Search:
    tool = _TEMPLATE_TOOLS.get(database.kind)
    if tool is None:
        raise FoldlineError(f"--template-db {database.paths[0]} is an MMseqs2 database; give a FASTA (pdb_seqres) or HH-suite (pdb70) one")
    if tool == "pyhmmer":
        return Search(database, tool, _version(tool), HMMSEARCH, f"{database.name}_hits.sto", profile)
    return Search(database, tool, _version(tool), HHSEARCH, f"{database.name}_hits.hhr", profile)


def _version(tool: str) -> str:
    if tool == "pyhmmer":
        return pyhmmer_version()
    find_program(tool)
    return program_version(tool)
