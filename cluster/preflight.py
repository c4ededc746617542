"""Preflight: what is checked before ranks compute together, what may be left out, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from ..settings import nearest
from .checks.result import FAILED, OK, SKIPPED, WARNING, Result

# name -> what it holds for; in the order in which they are looked at and shown
CHECKS = {
    "code": "the same source files and commit on every rank",
    "packages": "the same versions of Python and the packages that decide numbers",
    "config": "the same resolved config",
    "dataset": "the same content of the feature store",
    "gpu": "no uncorrected memory errors, no throttling, no other program on the cards",
    "limits": "open files, locked memory, shared memory",
    "checkpoint": "run.dir shared, writable, with room for the checkpoints that run.keep_* keep",
    "store": "samples are made as fast as the training takes them",
    "clock": "the hosts' clocks agree",
    "links": "latency and bandwidth between every two hosts",
}
ALL = "all"


@dataclass(frozen=True)
class PreflightConfig:
    """What is checked before a run, and what is expected."""

    skip: tuple[str, ...] = ()  # checks to leave out, by name; "all" = no preflight
    link_gbit: float = 0.0  # Gbit/s that a link between two hosts should give one rank; 0 = what the network card says
    link_share: float = 0.3  # of it that must be measured
    latency_ms: float = 5.0  # at most, for the smallest all-reduce of two hosts
    clock_seconds: float = 0.5  # that clocks may be apart
    samples_per_second: float = 0.0  # that a rank needs; 0 = what a resumed run took, else estimated on GPUs that `foldline plan` knows
    seconds: float = 60.0  # that ranks may take to come to `foldline preflight`, and to each check


def rules(config: PreflightConfig) -> list[tuple[bool, str]]:
    """(holds, message otherwise) for every value."""
    unknown = [name for name in config.skip if name not in CHECKS and name != ALL]
    positive = ("latency_ms", "clock_seconds", "seconds")
    return [
        *((False, f"preflight.skip names {name!r}, which is no check; {nearest(name, [*CHECKS, ALL])}") for name in unknown),
        *((getattr(config, n) >= 0, f"preflight.{n} = {getattr(config, n)} is negative") for n in ("link_gbit", "samples_per_second")),
        (0 < config.link_share <= 1, f"preflight.link_share = {config.link_share} is not within (0, 1]"),
        *((getattr(config, n) > 0, f"preflight.{n} = {getattr(config, n)} is not above 0") for n in positive),
    ]


def checks_to_do(config: PreflightConfig, names: Sequence[str]) -> list[str]:
    """Those of ``names`` that are not left out, in order."""
    return [] if ALL in config.skip else [name for name in CHECKS if name in names and name not in config.skip]


def with_way_out(result: Result) -> Result:
    """A failed check also says how to leave it out."""
    if result.state != FAILED:
        return result
    skip = f"or leave this check out: --set 'preflight.skip=[\"{result.check}\"]'"
    return replace(result, remedy=f"{result.remedy}; {skip}" if result.remedy else skip)


def to_json(results: Sequence[Result], seconds: float, ranks: Sequence[str], odd: Sequence[str]) -> str:
    """What ``RUN/preflight.json`` holds; ``odd`` from ``odd_hosts``."""
    about = {"schema": 1, "failed": failures(results), "odd_hosts": list(odd), "seconds": round(seconds, 3), "ranks": list(ranks)}
    return json.dumps(about | {"checks": [asdict(result) for result in results]}, indent=2) + "\n"


def failures(results: Sequence[Result]) -> list[str]:
    """Names of the checks that failed."""
    return [result.check for result in results if result.state == FAILED]


def odd_hosts(results: Sequence[Result], hosts: Sequence[str]) -> list[str]:
    """Those of ``hosts`` without which nothing would have failed; [] where that is none of them in particular, or all."""
    failed = [result for result in results if result.state == FAILED]
    odd = {host for result in failed for host in result.hosts}
    found = [host for host in dict.fromkeys(hosts) if host in odd]
    return found if all(result.hosts for result in failed) and len(found) < len(set(hosts)) else []


def show(results: Sequence[Result]) -> None:
    """The table: state, check, what was found, and below it the way out."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {OK: "green", WARNING: "yellow", FAILED: "red", SKIPPED: "dim"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for result in results:
        way_out = f"\n-> {result.remedy}" if result.remedy else ""
        table.add_row(f"[{colours[result.state]}]{result.state}[/]", result.check, escape(result.found + way_out))
    console = Console(highlight=False)
    console.print(table) if console.is_terminal else Console(highlight=False, width=140).print(table)
