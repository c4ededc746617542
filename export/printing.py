"""What the export commands print: stages with the time they began, an engine's gate, a bundle's engines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .engine_store import SHORT, Engine


def stage_printer(console: Console) -> Callable[[str], None]:
    """Prints each text with the seconds since now."""
    start = time.monotonic()

    def show(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - start:6.1f} s[/]  {escape(text)}", soft_wrap=True)

    return show


def print_gate(console: Console, engine: Engine) -> None:
    """Of every check the protein on which it came closest to its limit, or that the engine is not gated."""
    if engine.gate is None:
        console.print(f"{escape(engine.label)}: not gated; nothing folds with it before it is")
        return
    title = f"gate: {engine.label} against {engine.gate['reference']}, float32"
    table = _table(title, ("worst of", "on", "value", "limit"))
    for check in worst_checks(engine.gate["checks"]):
        value, unit = check["value"], check["unit"]
        table.add_row(
            check["name"], check["protein"], f"{value:.2g}{unit}" if isinstance(value, float) else f"{value}", f"{check['limit']:g}{unit}"
        )
    console.print(table)


def worst_checks(checks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One check of each name: that with the largest value; what is no number is worst."""
    worst: dict[str, dict[str, Any]] = {}
    for check in checks:
        if check["name"] not in worst or _size(check) > _size(worst[check["name"]]):
            worst[check["name"]] = check
    return list(worst.values())


def engine_table(engines: Sequence[Engine], obstacles: Sequence[str | None]) -> Table:
    """A row per engine; ``obstacles``: why each is not folded with here, None where it is."""
    table = _table("", ("engine", "kind", "precision", "device", "MB", "built", "here"))
    for engine, obstacle in zip(engines, obstacles, strict=True):
        facts = engine.facts
        here = "[green]folds[/]" if obstacle is None else escape(obstacle)
        size = f"{facts['bytes'] / 1e6:.1f}"
        table.add_row(engine.identity[:SHORT], engine.kind, engine.precision, engine.device, size, f"{facts['build_seconds']:.1f} s", here)
    return table


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title or None, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right" if heading in ("value", "limit", "MB", "built") else "left")
    return table


def _size(check: dict[str, Any]) -> float:
    return check["value"] if isinstance(check["value"], int | float) else float("inf")
