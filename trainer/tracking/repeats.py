"""Steps that are made again after a kill come to the same bits: MLflow, which takes no point back, holds each of these values once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..journal import Record, read_after

REMEMBERED = 5000  # steps; one that is made again after more than so many has its values in MLflow twice
LINES = 1000  # per read
SERIES = "system"  # kind of records that come several times per step


class Repeats:
    """What the first ``at`` bytes of a journal, which MLflow has, tell of each step: the newest value by name."""

    def __init__(self, journal: Path, at: int) -> None:
        self.at = 0
        self._steps: dict[int, dict[str, float]] = {}
        while self.at < at:
            found = read_after(journal, self.at, LINES, at)
            if found.end == self.at:
                break
            self.fresh(found.records)
            self.at = found.end

    def fresh(self, records: Sequence[Record]) -> list[tuple[Record, str, float]]:
        """Record, name and value of what MLflow lacks of the next ``records``: a value that its step has already is left out. Where it
        differs, as times and speeds do, it is another point of the step.
        """
        points = []
        for record in records:
            known = self._steps.setdefault(record.step, {}) if record.kind != SERIES else {}
            for name, value in record.metrics.items():
                if value == value and known.get(name) != value:
                    points.append((record, name, value))
                    known[name] = value
        for old in list(self._steps)[:-REMEMBERED]:
            del self._steps[old]
        return points
