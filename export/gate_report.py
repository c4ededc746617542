"""What a gate found and a bench measured, as ``gate.json`` and as ``gate.html``, one page that needs no network."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from .bench import BenchReport
from .gate import GateReport
from .gate_tables import accuracy_table, escape, seconds_text, size_text, speed_table, stability_table

JSON_NAME, HTML_NAME = "gate.json", "gate.html"
ACCURACY_NOTE = (
    "Δ is the change from PyTorch in float32 on the same input, after all passes; positions are not superposed. The worst atom, residue "
    "and pair are looked for in every pass, which PyTorch repeats from what the engine recycled. A bar shows how much of its limit a "
    "value takes."
)
STABILITY_NOTE = (
    "Run again: every pass twice, compared bit by bit. Padding: the first pass with residues and rows added that the masks hide."
)
SPEED_NOTE = (
    "One fold at a time in one process, contenders in turn, after one fold each to warm up; seconds are medians over the rounds with the "
    "range, from features to results in host memory. The ratio is taken within each round. Δ lDDT-Cα and RMSD are of the folds that were "
    "timed, from PyTorch's."
)
MEMORY_NOTES = {
    "device": "Peak memory: a process for each row; PyTorch's allocator at its highest, plus what the process holds of the device besides.",
    "resident": "Peak memory: a process for each row; the highest resident set of one pass, less that of Python with its libraries.",
}


def write_report(folder: Path, gate: GateReport, bench: BenchReport | None, about: Mapping[str, Any]) -> list[Path]:
    """``gate.json`` and ``gate.html`` in ``folder``; returns both. ``about``: facts of the engine, shown in their order."""
    paths = [folder / JSON_NAME, folder / HTML_NAME]
    data = gate.to_dict() | {"bench": None if bench is None else bench.to_dict(), "about": dict(about)}
    paths[0].write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")
    paths[1].write_text(report_html(gate, bench, about), encoding="utf-8")
    return paths


def report_html(gate: GateReport, bench: BenchReport | None, about: Mapping[str, Any]) -> str:
    """The page as text."""
    verdict, word = ("good", "passed") if not gate.failures else ("bad", "refused")
    sections = (_failures(gate), _accuracy(gate), _speed(bench), _stability(gate), _facts(about))
    values = {
        "title": f"{escape(gate.engine)} {word} · Foldline gate",
        "style": _resource("report.css") + _resource("gate_report.css"),
        "heading": f'{escape(gate.engine)} · {escape(gate.precision)} <span class="verdict {verdict}">{word}</span>',
        "subtitle": f"{len(gate.proteins)} proteins, {gate.recycles + 1} passes each, beside PyTorch in float32",
        "figures": _figures(gate, bench, about),
        "sections": "\n".join(section for section in sections if section),
    }
    page = _resource("gate_report.html")
    for name, value in values.items():
        before, _, after = page.partition("{{" + name + "}}")
        page = before + value + after
    return page


def geometric_mean(values: Sequence[float]) -> float:
    """Of ratios."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def _figures(gate: GateReport, bench: BenchReport | None, about: Mapping[str, Any]) -> str:
    covered = sum(bool(one.protein) for one in gate.bins)
    passed = len(gate.checks) - len(gate.failures)
    figures = [
        (f"{passed}<small>of {len(gate.checks)}</small>", "checks within limits", "good" if not gate.failures else "bad"),
        (f"{covered}<small>of {len(gate.bins)}</small>", "length bins covered", ""),
        (str(max((p.rows for p in gate.proteins), default=0)), "rows of the deepest alignment", ""),
    ]
    if bench is not None and len(bench.contenders) > 1:
        ratio = geometric_mean(bench.ratios(bench.contenders[-1]))
        figures.append((f"{ratio:.2f}<small>×</small>", f"the speed of {escape(bench.contenders[0])}", ""))
    for key, label, shown in (("build_seconds", "to build", seconds_text), ("bytes", "engine size", size_text)):
        if isinstance(about.get(key), int | float):
            number, unit = shown(about[key]).split(" ")
            figures.append((f"{number}<small>{unit}</small>", label, ""))
    return "".join(f'<li><b class="{kind}">{value}</b><span>{label}</span></li>' for value, label, kind in figures)


def _failures(gate: GateReport) -> str:
    listed = "".join(f"<li>{escape(check)}</li>" for check in gate.failures)
    return _card("Over the limit", f'<ul class="failed">{listed}</ul>') if listed else ""


def _accuracy(gate: GateReport) -> str:
    return _card("Accuracy by length", accuracy_table(gate) + _notes([ACCURACY_NOTE]))


def _stability(gate: GateReport) -> str:
    table, refusal = stability_table(gate)
    return _card("The same bits again, padding, and other sizes", table + _notes([STABILITY_NOTE, refusal]))


def _speed(bench: BenchReport | None) -> str:
    if bench is None:
        return _card("Speed and memory by length", _notes(["Not measured with this gate; foldline engine bench measures it."]))
    methods = sorted({cell.peak.method for cell in bench.cells if cell.peak is not None})
    notes = [f"{bench.passes} passes a fold, {bench.repeats} rounds, on {bench.machine}. {SPEED_NOTE}"]
    notes += [MEMORY_NOTES[method] for method in methods] + [f"Not measured: {text}." for text in bench.left_out]
    return _card("Speed and memory by length", speed_table(bench) + _notes(notes))


def _facts(about: Mapping[str, Any]) -> str:
    labels = {"build_seconds": "time to build", "bytes": "size"}
    rows = "".join(f"<dt>{escape(labels.get(key, key.replace('_', ' ')))}</dt>{_fact(key, value)}" for key, value in about.items())
    return _card("The engine", f"<dl>{rows}</dl>") if rows else ""


def _fact(key: str, value: object) -> str:
    if isinstance(value, Mapping):
        value = ", ".join(f"{name} {one}" for name, one in value.items()) or "none"
    elif isinstance(value, int | float) and key == "bytes":
        value = size_text(value)
    elif isinstance(value, int | float) and key.endswith("seconds"):
        value = seconds_text(value)
    return f'<dd class="{"hash" if len(str(value)) == 64 else ""}">{escape(value)}</dd>'


def _notes(texts: Sequence[str]) -> str:
    return "".join(f'<p class="note">{escape(text)}</p>' for text in texts)


def _card(title: str, inside: str) -> str:
    return f'<section class="card full"><div class="bar"><h2>{title}</h2></div>{inside}</section>'


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
