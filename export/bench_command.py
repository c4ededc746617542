"""``foldline engine bench``: speed and memory of a gated engine beside PyTorch, into the report that the engine carries."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import FoldlineError
from .bench import BenchReport
from .bundle import Bundle
from .config import ExportConfig
from .contenders import measure
from .core import Core
from .engine_store import GATE_PAGE, SHORT, find_engine, seal_gate
from .engines import choose
from .gate import GateReport
from .gate_report import write_report
from .gate_tables import seconds_text, signed_text, size_text
from .gating import Gate, about
from .printing import stage_printer


def bench_command(path: Path, name: str, config: ExportConfig) -> int:
    """Measure the engine whose identity begins with ``name`` ("": the one that would fold) and print the table.

    The engine's ``gate.json`` and ``gate.html`` hold it from then on. 0, or FoldlineError for an engine without a passed gate: no speed is
    told without accuracy.
    """
    console = Console(highlight=False)
    bundle = Bundle.open(path)
    core = Core.of(bundle)
    engine = find_engine(path, name) if name else choose(bundle, "auto").engine
    if engine.gate is None:
        raise FoldlineError(f"engine {engine.label} is not gated; give: foldline engine gate {path} {engine.identity[:SHORT]}")
    selection = Gate.of(bundle, config).select(engine.limits)
    report = measure(core, engine, selection, config, stage_printer(console))
    with tempfile.TemporaryDirectory(dir=engine.path.parent, prefix=".bench-") as folder:
        write_report(Path(folder), GateReport.from_dict(engine.gate), report, about(core, engine))
        seal_gate(Path(folder), engine, engine.path)
    console.print(bench_table(report))
    for text in report.left_out:
        console.print(f"not measured: {text}", markup=False, soft_wrap=True)
    console.print(f"[bold]{escape(str(engine.path / GATE_PAGE))}[/]", soft_wrap=True)
    return 0


def bench_table(report: BenchReport) -> Table:
    """A row per protein and contender: time, ratio, memory, and beside them how far the fold is from PyTorch's in float32."""
    title = f"{report.passes} passes a fold, {report.repeats} rounds, on {report.machine}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("protein", "residues", "", "per fold", "ratio", "peak memory", "Δ lDDT-Cα", "RMSD"):
        table.add_column(heading, justify="left" if heading in ("protein", "") else "right")
    for cell in report.cells:
        table.add_row(
            cell.protein,
            str(cell.residues),
            escape(cell.contender),
            seconds_text(cell.median),
            f"{cell.ratio:.2f}×",
            "–" if cell.peak is None else size_text(cell.peak.bytes),
            signed_text(cell.lddt),
            f"{cell.rmsd:.2g} Å",
        )
    return table
