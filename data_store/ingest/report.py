"""The report of an ingest: counts by reason and the distributions of what was stored, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..residues import RESTYPES_X
from .entry import Listing
from .outcome import Facts, Outcome
from .reasons import quarantine_class, repair_classes


@dataclass(frozen=True)
class IngestReport:
    """Every entry of the sources in one of four tuples, which layouts they had, and remarks on the sources."""

    stored: tuple[Outcome, ...]
    repaired: tuple[Outcome, ...]
    skipped: tuple[Outcome, ...]
    quarantined: tuple[Outcome, ...]
    layouts: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], listings: Sequence[Listing] = ()) -> IngestReport:
        """The outcomes sorted into the four."""
        kinds = {
            kind: tuple(outcome for outcome in outcomes if outcome.status == kind)
            for kind in ("stored", "repaired", "skipped", "quarantined")
        }
        layouts, remarks = tuple(listing.layout for listing in listings), tuple(r for listing in listings for r in listing.remarks)
        return cls(kinds["stored"], kinds["repaired"], kinds["skipped"], kinds["quarantined"], layouts, remarks)

    @property
    def count(self) -> int:
        """Chains that this run stored."""
        return len(self.stored) + len(self.repaired)

    @property
    def facts(self) -> tuple[Facts, ...]:
        """Of every chain that this run stored."""
        return tuple(outcome.facts for outcome in (*self.stored, *self.repaired) if outcome.facts is not None)

    def counts(self) -> dict[str, int]:
        """Entries by how they ended."""
        return {name: len(getattr(self, name)) for name in ("stored", "repaired", "skipped", "quarantined")}

    def quarantine_reasons(self) -> dict[str, list[Outcome]]:
        """Quarantined entries by class of reason, the most frequent first."""
        return _by_class([(quarantine_class(outcome.reason), outcome) for outcome in self.quarantined])

    def repair_reasons(self) -> dict[str, list[Outcome]]:
        """Repaired entries by class of repair; one with several repairs stands under each."""
        return _by_class([(name, outcome) for outcome in self.repaired for name in repair_classes(outcome.reason)])

    def template_reasons(self) -> dict[str, int]:
        """Template hits that were passed over, by class of reason."""
        total: Counter[str] = Counter()
        for facts in self.facts:
            total.update(facts.passed_over)
        return dict(total.most_common())

    def to_json(self) -> dict[str, Any]:
        """Everything in JSON's types: counts, reasons, distributions, and each entry that is not simply stored."""
        return {
            "counts": self.counts(),
            "layouts": list(self.layouts),
            "remarks": list(self.remarks),
            "quarantine_reasons": {name: len(found) for name, found in self.quarantine_reasons().items()},
            "repair_reasons": {name: len(found) for name, found in self.repair_reasons().items()},
            "template_hits_passed_over": self.template_reasons(),
            "distributions": {name: histogram.to_json() for name, histogram in histograms(self.facts).items()},
            "quarantined": {outcome.name: outcome.reason for outcome in self.quarantined},
            "repaired": {outcome.name: outcome.reason for outcome in self.repaired},
            "skipped": [outcome.name for outcome in self.skipped],
        }


@dataclass(frozen=True)
class Histogram:
    """Counts per labelled bin, the unit of what is counted, and a line on what no bin holds."""

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    unit: str
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """In JSON's types."""
        return {"bins": list(self.labels), "counts": list(self.counts), "unit": self.unit, "note": self.note}


def histograms(facts: Sequence[Facts]) -> dict[str, Histogram]:
    """The distributions that a report shows, by title."""
    if not facts:
        return {}
    resolved = [f.resolution for f in facts if f.resolution > 0]
    years = [int(f.release_date[:4]) for f in facts if f.release_date]
    templates = [f.templates for f in facts if f.templates >= 0]
    lengths, depths = [f.length for f in facts], [f.depth for f in facts]
    found = {
        "Length": _binned(lengths, (1, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048), "residues", _median(lengths)),
        "MSA depth": _binned(depths, (1, 2, 4, 16, 64, 256, 1024, 4096, 16384), "rows", _median(depths)),
        "Resolution": _binned(resolved, (0, 1, 1.5, 2, 2.5, 3, 3.5, 4, 9), "Å", f"{len(facts) - len(resolved)} chains without one"),
        "Release year": _years(years, f"{len(facts) - len(years)} chains without a date"),
        "Observed residues": _binned([100 * f.observed // f.length for f in facts], (0, 50, 70, 80, 90, 95, 100), "% of the sequence", ""),
    }
    if templates:
        note = f"{len(facts) - len(templates)} chains without a template search"
        found["Templates"] = _binned(templates, (0, 1, 2, 4, 8, 16, 20), "per chain", note)
    composition = np.array([f.composition for f in facts]).sum(axis=0)
    found["Residue types"] = Histogram(RESTYPES_X, tuple(int(n) for n in composition), "residues", f"{int(composition.sum()):,} residues")
    return found


def _binned(values: Sequence[float], edges: tuple[float, ...], unit: str, note: str) -> Histogram:
    """Bins [edge, next edge), the last one open; empty ones at the upper end are left out."""
    counts = np.histogram(values, bins=[*edges, np.inf])[0] if len(values) else np.zeros(len(edges), int)
    last = int(np.flatnonzero(counts).max(initial=0)) + 1
    labels = []
    for low, high in zip(edges, [*edges[1:], None], strict=True):
        whole = isinstance(low, int) and isinstance(high, int | None) and all(isinstance(edge, int) for edge in edges)
        if high is None:
            labels.append(f"{low:g}" if unit.startswith("%") else f"≥ {low:g}")
        else:
            labels.append(f"{low:g}" if whole and high == low + 1 else f"{low:g}–{high - 1 if whole else high:g}")
    return Histogram(tuple(labels[:last]), tuple(int(n) for n in counts[:last]), unit, note)


def _years(years: Sequence[int], note: str) -> Histogram:
    if not years:
        return Histogram((), (), "chains", note)
    count = Counter(years)
    span = range(min(years), max(years) + 1)
    return Histogram(tuple(map(str, span)), tuple(count[year] for year in span), "year", note)


def _median(values: Sequence[int]) -> str:
    return f"median {np.median(values):,.0f}, largest {max(values):,}"


def _by_class(pairs: Sequence[tuple[str, Outcome]]) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for name, outcome in pairs:
        found.setdefault(name, []).append(outcome)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))
