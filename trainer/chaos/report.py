"""The table as it grows, and ``chaos.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ...whole_file import write_json
from .blow import Outcome

WIDTH = 180  # where the output is no terminal
COLUMNS = (
    ("#", 3),
    ("fault", 20),
    ("moment", 18),
    ("what was done", 34),
    ("what was seen", 52),
    ("code", 4),
    ("again", 5),
    ("lost", 4),
    ("verdict", 20),
)


@dataclass(frozen=True)
class Check:
    """One thing that must hold at the end."""

    name: str
    problems: list[str]


class Report:
    """Prints, and remembers nothing."""

    def __init__(self) -> None:
        console = Console(highlight=False, markup=False)
        self._console = console if console.is_terminal else Console(highlight=False, markup=False, width=WIDTH)
        self._headed = False

    def say(self, line: str) -> None:
        """Print one line."""
        self._console.print(line, soft_wrap=True)

    def row(self, outcome: Outcome) -> None:
        """Print what came of a fault."""
        table = Table(show_header=not self._headed, box=None, pad_edge=False)
        for name, width in COLUMNS:
            table.add_column(name, width=width, justify="right" if name in ("#", "code", "again", "lost") else "left", overflow="fold")
        self._headed = True
        fault = outcome.fault
        done = outcome.done + (f"; then by hand: {outcome.operator}" if outcome.operator else "")
        moment = f"step {outcome.step}, {fault.phase}" if fault.phase != "starting" else "starting again"
        code = "" if outcome.code is None else str(outcome.code)
        cells = (str(fault.number), fault.kind, moment, done, outcome.seen, code, str(outcome.restarts), str(outcome.lost))
        table.add_row(*cells, "; ".join(outcome.problems) or "borne")
        self._console.print(table)

    def check(self, check: Check) -> None:
        """Print whether something holds."""
        self.say(f"{'holds ' if not check.problems else 'FAILED'}  {check.name}{''.join(f'; {problem}' for problem in check.problems)}")


def write_report(
    path: Path, about: Mapping[str, Any], outcomes: Sequence[Outcome], checks: Sequence[Check], problems: Sequence[str]
) -> None:
    """Everything that was done and seen, as JSON."""
    faults = [{key: value for key, value in asdict(o).items() if key not in ("output", "next_output")} | {"lost": o.lost} for o in outcomes]
    write_json(path, {**about, "faults": faults, "checks": [asdict(check) for check in checks], "problems": list(problems)})
