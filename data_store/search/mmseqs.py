"""MMseqs2 as ColabFold runs it: many queries at once, later databases searched with the first one's profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import FoldlineError
from .alignment import Row, read_rows
from .databases import Database
from .options import Options
from .parameters import Parameters
from .programs import find_program, run_program
from .queries import Query


@dataclass(frozen=True)
class _Run:
    """The program's folder, log and switches of one batch."""

    work: Path
    options: Options

    def __call__(self, command: str, *arguments: str | Path, threads: bool = True) -> None:
        switches = ["--threads", str(self.options.threads)] if threads else []
        run_program([find_program("mmseqs"), command, *arguments, *switches], self.work / "log", self.options.timeout)


def search_msas(
    queries: Sequence[Query], databases: Sequence[Database], parameters: Parameters, options: Options, work: Path
) -> dict[str, dict[str, list[Row]]]:
    """Rows per database and query name, the query first. ``work`` is an empty folder. Raises as ``run_program`` does.

    Databases of clusters (with their _seq and _aln parts) are expanded to the members and filtered as in ColabFold; a plain database's
    hits are taken as they are, then thinned by the same rule for the alignment.
    """
    run = _Run(work, options)
    source = work / "queries.fasta"
    source.write_text("".join(f">{query.name}\n{query.sequence}\n" for query in queries))
    run("createdb", source, work / "qdb", "--shuffle", "0", "--dbtype", "1", threads=False)
    profiles: Path | None = None
    found = {}
    for number, database in enumerate(databases):
        folder = work / str(number)
        folder.mkdir()
        profiles = _search(run, database, parameters, folder, profiles)
        found[database.name] = _alignments(folder, queries, database)
    return found


def _search(run: _Run, database: Database, parameters: Parameters, folder: Path, profiles: Path | None) -> Path:
    """Search one database into ``folder``/msa; returns the profiles for the next one."""
    queries, hits, target = run.work / "qdb", folder / "hits", Path(database.paths[0])
    indexed = any(Path(f"{target}.idx{end}").is_file() for end in ("", ".index"))
    load = ("--db-load-mode", "2" if indexed else "0")
    gpu = ("--gpu", "1", "--gpu-server", "1") if run.options.gpu_server else ()
    run("search", profiles or queries, target, hits, folder / "tmp", *parameters["search"], *load, *gpu)
    own = folder / "tmp" / "latest" / "profile_1"
    if database.expandable:
        members, links = (Path(f"{target}{end}") for end in ((".idx", ".idx") if indexed else ("_seq", "_aln")))
        run("expandaln", profiles or queries, members, hits, links, folder / "expanded", *parameters["expand"], *load)
        run("align", own, members, folder / "expanded", folder / "aligned", *parameters["align"], *load)
        hits, target = folder / "kept", members
        run("filterresult", queries, target, folder / "aligned", hits, *parameters["filter"], *load)
    run("result2msa", queries, target, hits, folder / "msa", *parameters["msa"], *load)
    run("unpackdb", folder / "msa", folder / "out", "--unpack-name-mode", "0", "--unpack-suffix", ".a3m")
    if profiles is not None:
        return profiles
    for end in ("", ".index", ".dbtype"):
        Path(f"{own}{end}").rename(folder / f"profiles{end}")
    for end in ("", ".index", ".dbtype"):
        Path(f"{folder / 'profiles'}_h{end}").symlink_to(f"{queries}_h{end}")
    return folder / "profiles"


def _alignments(folder: Path, queries: Sequence[Query], database: Database) -> dict[str, list[Row]]:
    """The unpacked alignments; they are numbered in the order of the queries."""
    found = {}
    for number, query in enumerate(queries):
        path = folder / "out" / f"{number}.a3m"
        rows = read_rows(path.read_bytes(), path.name) if path.is_file() else [Row(query.name, query.sequence.encode())]
        if rows[0].columns.decode() != query.sequence:
            raise FoldlineError(f"mmseqs gave another query's alignment for {query.name} in {database.name}; report its version")
        found[query.name] = rows
    return found


def environment_faults(options: Options, supported: Mapping[str, bool]) -> str:
    """Why MMseqs2 cannot run as asked, or ''. ``supported``: which options `mmseqs search` lists."""
    if options.gpu_server and not supported["--gpu-server"]:
        return (
            "--gpu-server: the installed mmseqs has no such option; install MMseqs2 16 or later (built with CUDA) and start its gpuserver"
        )
    return ""
