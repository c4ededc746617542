"""`foldline ingest` at the terminal: a progress bar, a line for every entry that is not simply stored, the counts at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .report import IngestReport
from .run import IngestSettings, ingest

_LINES = 50  # printed per kind of outcome; the report has all


def ingest_command(sources: Sequence[Path], store: Path, settings: IngestSettings) -> int:
    """Ingest and print what became of the entries; 0 when the store is there. Errors are FoldlineError, as of ``ingest``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(highlight=False, soft_wrap=True)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (
        TextColumn("ingest"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[name]}", markup=False),
    )
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("ingest", total=None, name="")
        report = ingest(
            sources,
            store,
            settings,
            progress=lambda done, total, name: bar.update(task, completed=done, total=total, name=name),
            say=lambda line: errors.print(line, markup=False),
        )
    for line in summary(report):
        console.print(line, markup=False)
    where = settings.report or store.with_name(f"{store.name}.report")
    counts = f"{report.count} chains stored ({len(report.repaired)} of them repaired), "
    counts += f"{len(report.skipped)} skipped, " if report.skipped else ""
    console.print(f"{store}: {counts}{len(report.quarantined)} entries quarantined; report: {where}/report.html", markup=False)
    return 0


def summary(report: IngestReport) -> list[str]:
    """The printed lines: entries with their reasons, or the number per class where there are too many, then remarks."""
    lines = []
    for word, outcomes, classes in (
        ("repaired", report.repaired, report.repair_reasons()),
        ("quarantined", report.quarantined, report.quarantine_reasons()),
    ):
        if len(outcomes) <= _LINES:
            lines += [f"{word}  {outcome.name}: {outcome.reason}" for outcome in outcomes]
        else:
            lines += [
                f"{word}  {len(found)} entries: {name} (such as {found[0].name}: {found[0].reason})" for name, found in classes.items()
            ]
    lines += [f"template hits passed over  {number}: {name}" for name, number in report.template_reasons().items()]
    return [*lines, *report.remarks]
