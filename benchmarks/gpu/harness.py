"""Running checks one by one: results as lines and as JSON, failures that stop nothing but themselves, a time budget."""

from __future__ import annotations

import gc
import importlib
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# name: file of this folder and its function; cheap ones first, so that a short budget still answers most questions.
CHECKS = {
    "device": ("facts", "check"),
    "modules": ("modules", "check"),
    "network": ("network", "check"),
    "equality": ("equality", "check"),
    "learning": ("learning", "check"),
    "training-256": ("training", "check_initial"),
    "inference": ("inference", "check"),
    "training-384": ("training", "check_finetune"),
    "engines": ("engines", "check"),
    "deepspeed": ("deepspeed_run", "check"),
}
PASS, FAIL, ERROR, NOT_RUN, SKIPPED, MEMORY, MEASURED = "pass", "fail", "error", "not run", "skipped", "out of memory", "measured"


@dataclass(frozen=True)
class Settings:
    """What all checks are told. ``deadline`` is in ``time.monotonic`` seconds; ``scratch`` is removed at the end."""

    device: str
    small: bool
    deadline: float
    reference: Path
    scratch: Path

    @classmethod
    def start(cls, device: str, small: bool, minutes: float, reference: Path, scratch: Path) -> Settings:
        return cls(device, small, time.monotonic() + 60 * minutes, reference, scratch)

    @property
    def late(self) -> bool:
        return time.monotonic() > self.deadline


@dataclass
class Row:
    """One result: ``figure`` in ``unit``, at most ``bound`` where there is one; ``values`` are further numbers for programs."""

    name: str
    status: str
    figure: float | None = None
    bound: float | None = None
    unit: str = ""
    note: str = ""
    values: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        figure = "" if self.figure is None else f"{self.figure:.3g} {self.unit}".strip()
        bound = "" if self.bound is None else f"<= {self.bound:.3g}"
        return f"  {self.status:13} {self.name:44} {figure:>14} {bound:>10}  {self.note}".rstrip()


@dataclass
class Report:
    """The results of one check, printed as they come."""

    name: str
    rows: list[Row] = field(default_factory=list)
    table: list[dict[str, Any]] = field(default_factory=list)  # details for the JSON
    seconds: float = 0.0

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(row.line(), flush=True)

    def at_most(self, name: str, figure: float, bound: float, unit: str = "", note: str = "") -> None:
        """A figure under a bound; NaN is above every bound."""
        self.add(Row(name, PASS if figure <= bound else FAIL, figure, bound, unit, note))

    def skip(self, name: str) -> None:
        self.add(Row(name, SKIPPED, note="time budget (--minutes)"))

    def not_run(self, name: str, reason: str) -> None:
        self.add(Row(name, NOT_RUN, note=reason))

    @property
    def status(self) -> str:
        """The worst of the rows; a check of which something was left out has not passed whole, but what ran did."""
        found = {row.status for row in self.rows}
        for status in (ERROR, FAIL):
            if status in found:
                return status
        if found & {PASS, MEASURED, MEMORY}:
            return PASS
        return SKIPPED if SKIPPED in found else NOT_RUN


def run_all(settings: Settings, only: Sequence[str] | None, out: Path) -> int:
    """Run the checks (those of ``only``) and write ``out``/gpu_check.json after each; 0, 1, or 2 for an unknown name."""
    unknown = sorted(set(only or ()) - set(CHECKS))
    if unknown:
        print(f"no check is called {', '.join(unknown)}; there are {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    reports: list[Report] = []
    for name in CHECKS:
        if only and name not in only:
            continue
        print(f"\n{name}", flush=True)
        reports.append(run_one(name, settings))
        write(reports, settings, out / "gpu_check.json")
    print("\n" + ", ".join(f"{report.name}: {report.status}" for report in reports))
    print(f"{out / 'gpu_check.json'}")
    statuses = {report.status for report in reports}
    return 0 if PASS in statuses and not statuses & {FAIL, ERROR} else 1


def run_one(name: str, settings: Settings) -> Report:
    """One check; whatever it raises ends in its report."""
    report, start = Report(name), time.monotonic()
    if settings.late:
        report.skip(name)
        return report
    try:
        check_of(name)(report, settings)
        if not report.rows:
            report.add(Row(name, FAIL, note="nothing was checked"))
    except ModuleNotFoundError as error:
        package = (error.name or "?").split(".")[0]
        if package == "foldline":
            raise
        report.not_run(name, f"package {package} is missing here; carry it with --wheels")
    except Exception as error:
        traceback.print_exc()
        report.add(Row(name, ERROR, note=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
    report.seconds = time.monotonic() - start
    if settings.device == "cuda":
        release(report)
    return report


def check_of(name: str) -> Callable[[Report, Settings], None]:
    """The function of a check; its file is imported now, so that a missing package concerns this check alone."""
    file, function = CHECKS[name]
    return getattr(importlib.import_module(f"foldline.benchmarks.gpu.{file}"), function)


def release(report: Report) -> None:
    """Give the check's memory back; a device that no longer answers is this check's fault and is reported with it."""
    import torch

    gc.collect()
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as error:
        report.add(Row("device afterwards", ERROR, note=f"{' '.join(str(error).split())[:300]}; what follows will fail as well"))


def write(reports: Sequence[Report], settings: Settings, path: Path) -> None:
    """All results so far; numbers that JSON cannot hold become null."""
    document = {
        "device": settings.device,
        "small": settings.small,
        "reference": str(settings.reference),
        "checks": {
            r.name: {"status": r.status, "seconds": r.seconds, "rows": [asdict(x) for x in r.rows], "table": r.table} for r in reports
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(finite(document), indent=1) + "\n")
    partial.replace(path)


def finite(value: Any) -> Any:
    """``value`` with every NaN and infinity replaced by None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
