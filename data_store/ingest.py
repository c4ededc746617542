"""`foldline ingest`: a folder of structures and alignments becomes a store; what is repaired or rejected is named with its reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import FoldlineError
from .metadata_table import Overrides, read_metadata_table, with_overrides
from .parse.structure import read_structure
from .sources import Outcome, SourceFolder, build_record, chains_of, scan
from .writer import StoreWriter, refuse_existing

METADATA_TABLE = "metadata.tsv"
_REASONS_IN_ERROR = 5

Progress = Callable[[int, int, str], None]  # structure files done, all of them, the one just done


@dataclass(frozen=True)
class IngestReport:
    """Every entry of the source folder, in one of three lists: stored as it is, stored after a repair, not stored."""

    stored: tuple[Outcome, ...]
    repaired: tuple[Outcome, ...]
    rejected: tuple[Outcome, ...]

    @property
    def count(self) -> int:
        """Chains in the store."""
        return len(self.stored) + len(self.repaired)


def ingest(source: Path, store: Path, *, progress: Progress | None = None) -> IngestReport:
    """Build the store ``store`` from the files of ``source`` (see docs/data.md for their names).

    Raises FoldlineError, leaving nothing behind, when ``store`` exists, ``source`` is no folder or holds no structure, its
    metadata.tsv is wrong, or no entry can be stored.
    """
    refuse_existing(store)
    folder = scan(source, deep=True)
    if not folder.structures:
        raise FoldlineError(f"{source} holds no structure; ingest needs NAME.cif or NAME.pdb (or .gz) with NAME.a3m beside it")
    table = read_metadata_table(source / METADATA_TABLE)
    with StoreWriter(store) as writer:
        report = _Ingest(folder, table, writer).run(progress)
        if report.count == 0:
            reasons = "; ".join(f"{o.name}: {o.reason}" for o in report.rejected[:_REASONS_IN_ERROR])
            more = len(report.rejected) - _REASONS_IN_ERROR
            raise FoldlineError(f"{source} has no entry that can be stored ({reasons}{f'; and {more} more' if more > 0 else ''})")
    return report


class _Ingest:
    """One pass over a source folder."""

    def __init__(self, folder: SourceFolder, table: dict[str, Overrides], writer: StoreWriter) -> None:
        self._folder, self._table, self._writer = folder, table, writer
        self._stored: list[Outcome] = []
        self._repaired: list[Outcome] = []
        fastas = (Outcome(path.name, "FASTA files are not ingested; give an alignment as .a3m") for path in folder.fastas.values())
        self._rejected = [*folder.duplicates, *folder.refused, *fastas]
        self._used: set[str] = set()  # stems of alignments that an entry has claimed
        self._seen: set[str] = set()  # chain ids met

    def run(self, progress: Progress | None) -> IngestReport:
        for done, (stem, path) in enumerate(self._folder.structures.items(), start=1):
            self._structure(stem, path)
            if progress is not None:
                progress(done, len(self._folder.structures), stem)
        self._rejected += [Outcome(p.name, "no structure beside it") for s, p in self._folder.alignments.items() if s not in self._used]
        self._rejected += [Outcome(i, f"named in {METADATA_TABLE}, but there is no such entry") for i in self._table if i not in self._seen]
        return IngestReport(tuple(self._stored), tuple(self._repaired), tuple(self._rejected))

    def _structure(self, stem: str, path: Path) -> None:
        try:
            structure = read_structure(path)
            chains = chains_of(stem, path, structure)
        except FoldlineError as error:
            self._rejected.append(Outcome(stem, str(error)))
            self._seen.add(stem)
            self._used |= {s for s in self._folder.alignments if s == stem or s.startswith(f"{stem}_")}
            return
        for chain_id, chain in chains.items():
            self._seen.add(chain_id)
            names = [chain_id, *([stem] if len(chains) == 1 else [])]
            alignment = next((name for name in names if name in self._folder.alignments), None)
            self._used |= {alignment} if alignment else set()
            try:
                record, notes = build_record(chain_id, chain, structure, self._folder.alignments[alignment] if alignment else None)
                metadata = with_overrides(record.metadata, self._table.get(chain_id, {}))
                self._writer.add(dataclasses.replace(record, metadata=metadata))
            except FoldlineError as error:
                self._rejected.append(Outcome(chain_id, str(error)))
                continue
            (self._repaired if notes else self._stored).append(Outcome(chain_id, "; ".join(notes)))


def ingest_command(source: Path, store: Path) -> int:
    """Ingest with a progress bar and print what became of every entry that is not simply stored; 0 when at least one chain is stored."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(highlight=False, soft_wrap=True)
    columns = (
        TextColumn("ingest"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[name]}", markup=False),
    )
    errors = Console(stderr=True)
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("ingest", total=None, name="")
        report = ingest(source, store, progress=lambda done, total, name: bar.update(task, completed=done, total=total, name=name))
    for word, outcomes in (("repaired", report.repaired), ("rejected", report.rejected)):
        for outcome in outcomes:
            console.print(f"{word}  {outcome.name}: {outcome.reason}", markup=False)
    counts = f"{report.count} chains stored ({len(report.repaired)} of them repaired), {len(report.rejected)} entries rejected"
    console.print(f"{store}: {counts}", markup=False)
    return 0
