"""The tables of the gate's page: accuracy and stability by protein, speed and memory by protein and contender."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from .bench import BenchReport, Cell
from .gate import Folded, GateReport
from .gate_checks import (
    ANY,
    ATOMS,
    DISTOGRAM,
    FINITE,
    LDDT,
    MEAN_PLDDT,
    PADDED_PLDDT,
    PADDED_POSITION,
    PAE,
    PLDDT,
    POSITION,
    PTM,
    REFUSAL,
    REPEAT,
    RMSD,
    Check,
)
from .gate_templates import OWN

Heading = tuple[str, str]  # the title, and what stands below it
ACCURACY = {
    LDDT: ("Δ lDDT-Cα", "0..1"),
    MEAN_PLDDT: ("Δ pLDDT", "mean of chain"),
    PLDDT: ("Δ pLDDT", "worst residue"),
    PTM: ("Δ pTM", "0..1"),
    PAE: ("Δ PAE", "Å, worst pair"),
    RMSD: ("RMSD", "Å, all atoms"),
    POSITION: ("worst atom", "Å"),
    DISTOGRAM: ("distogram", "worst probability"),
}
STABILITY = {
    FINITE: ("not finite", "values"),
    ATOMS: ("atoms that", "come or go"),
    REPEAT: ("run again", "values that differ"),
    PADDED_POSITION: ("padding", "worst atom, Å"),
    PADDED_PLDDT: ("padding", "worst pLDDT"),
}
PROTEIN: Heading = ("protein", "")
UNKNOWN = '<td class="none">–</td>'


def accuracy_table(gate: GateReport) -> str:
    """A row per protein under the limits; bins without one say why."""
    checks = {(check.protein, check.name): check for check in gate.checks}
    shown = {name: title for name, title in ACCURACY.items() if any(key == name for _, key in checks)}
    heads = [("length bin", ""), PROTEIN, ("residues", ""), ("MSA rows", "seen"), ("lDDT-Cα", "PyTorch → engine"), *shown.values()]
    body = f'<tr class="limit"><td>limit</td>{"<td></td>" * 4}{_limits(gate, shown)}</tr>'
    for protein in gate.proteins:
        cells = "".join(_value(checks.get((protein.name, name))) for name in shown)
        body += f"<tr><td>{_bin_of(gate, protein)}</td>{_protein(protein)}{cells}</tr>"
    for one in gate.bins:
        if not one.protein:
            note = f'<td class="none text" colspan="{4 + len(shown)}">not covered: {escape(one.note)}</td>'
            body += f"<tr><td>{one.shortest}–{one.longest}</td>{note}</tr>"
    return _table(heads, body)


def stability_table(gate: GateReport) -> tuple[str, str]:
    """A row per protein, and what is to be said of sizes outside the engine's."""
    checks = {(check.protein, check.name): check for check in gate.checks}
    body = f'<tr class="limit"><td>limit</td><td></td>{_limits(gate, STABILITY)}</tr>'
    for protein in gate.proteins:
        cells = "".join(_value(checks.get((protein.name, name))) for name in STABILITY)
        body += f"<tr><td>{escape(protein.name)}</td><td>{protein.residues}</td>{cells}</tr>"
    refusal = checks.get((ANY, REFUSAL))
    said = "The engine takes any size."
    if refusal is not None:
        said = "Inputs outside the engine's sizes are errors that name the limit."
        said = said if refusal.passed else f"Not refused with the limit: {refusal.note}."
    return _table([PROTEIN, ("residues", ""), *STABILITY.values()], body), said


def speed_table(bench: BenchReport) -> str:
    """Rows per protein: each contender's time, memory, and how far its fold is from the first one's."""
    heads = ["protein", "residues", "", "seconds per fold", "range", "ratio", "first fold", "peak memory", "Δ lDDT-Cα", "RMSD, Å"]
    body, before = "", ""
    for cell in bench.cells:
        slowest = max(other.median for other in bench.cells if other.protein == cell.protein)
        first = cell.protein != before
        name = f"<td>{escape(cell.protein)}</td><td>{cell.residues}</td>" if first else "<td></td><td></td>"
        body += f'<tr class="{"first" if first else ""}">{name}{_speed_cells(cell, slowest, cell.contender == bench.contenders[0])}</tr>'
        before = cell.protein
    return _table([(head, "") for head in heads], body)


def size_text(size: float) -> str:
    """Bytes as people read them."""
    for unit, one in (("GB", 1e9), ("MB", 1e6)):
        if size >= one:
            return f"{size / one:.3g} {unit}"
    return f"{size / 1e3:.1f} kB"


def seconds_text(seconds: float) -> str:
    """A time as people read it."""
    return f"{seconds * 1e3:.1f} ms" if seconds < 0.1 else f"{seconds:.2f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def signed_text(value: float | None) -> str:
    """A change; a dash where it is not known."""
    return "–" if value is None else "0" if value == 0 else f"{value:+.2g}"


def escape(value: object) -> str:
    """Text for HTML."""
    return html.escape(str(value), quote=True)


def _speed_cells(cell: Cell, slowest: float, base: bool) -> str:
    share = f'<span class="share"><i style="width:{100 * cell.median / slowest:.1f}%"></i></span>'
    spread = f"{seconds_text(min(cell.seconds))} – {seconds_text(max(cell.seconds))}"
    return (
        f'<td class="text">{escape(cell.contender)}</td>'
        f'<td class="meter{" base" if base else ""}">{seconds_text(cell.median)}{share}</td>'
        f'<td><span class="soft">{spread}</span></td>'
        + (UNKNOWN if base else f"<td><b>{cell.ratio:.2f}×</b></td>")
        + f"<td>{seconds_text(cell.first_seconds)}</td>"
        + (UNKNOWN if cell.peak is None else f"<td>{size_text(cell.peak.bytes)}</td>")
        + (UNKNOWN * 2 if base else f"<td>{signed_text(cell.lddt)}</td><td>{_number(cell.rmsd)}</td>")
    )


def _protein(protein: Folded) -> str:
    before, after = protein.reference.lddt, None if protein.engine is None else protein.engine.lddt
    name = f'<td class="text">{escape(protein.name)} <small>{escape(protein.origin)}</small></td>'
    rows = f"<td>{protein.rows} <small>{protein.clusters} + {protein.extra}</small></td>"
    lddt = UNKNOWN if before is None or after is None else f"<td>{before:.3f} → {after:.3f}</td>"
    return f"{name}<td>{protein.residues}</td>{rows}{lddt}"


def _bin_of(gate: GateReport, protein: Folded) -> str:
    for one in gate.bins:
        if one.protein == protein.name:
            return f"{one.shortest}–{one.longest}"
    return "templates" if protein.origin == OWN else "deep MSA"


def _limits(gate: GateReport, names: Sequence[str] | dict[str, Heading]) -> str:
    limits = {check.name: check.limit for check in gate.checks}
    return "".join(f"<td>{_number(limits[name]) if name in limits else '–'}</td>" for name in names)


def _value(check: Check | None) -> str:
    if check is None:
        return UNKNOWN
    bar = ""
    if check.limit:
        share = min(100.0, 100 * check.value / check.limit) if math.isfinite(check.value) else 100.0
        bar = f'<span class="share"><i style="width:{share:.1f}%"></i></span>'
    return f'<td class="{"" if check.passed else "bad"}">{_number(check.value)}{bar}</td>'


def _table(heads: Sequence[Heading], body: str) -> str:
    cells = ""
    for place, (title, below) in enumerate(heads):
        text = title == "protein" or (title == "" and place)
        cells += f'<th class="{"text" if text else ""}">{escape(title)}{f"<small>{escape(below)}</small>" if below else ""}</th>'
    return f'<div class="scroll"><table class="numbers"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:.0f}" if value == int(value) else f"{value:.2g}"
