"""What a rank tells a check, what a check finds, and how hosts and ranks are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"
LISTED = 4  # ranks or hosts in a message


class Told(NamedTuple):
    """One rank's ``facts`` for one check; JSON values."""

    rank: int
    host: str
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"rank {self.rank} on {self.host}"


@dataclass(frozen=True)
class Result:
    """One line of the table. ``found`` names values and, where it is not well, ranks and hosts; ``remedy`` is the way out.

    ``hosts``: those without which the check would not have failed; () where it is nobody's in particular.
    """

    check: str
    state: str
    found: str
    remedy: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()


def listed(names: Sequence[str]) -> str:
    """The first few of ``names`` and how many more there are."""
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")


def joined(problems: Sequence[str]) -> str:
    """The first few of ``problems`` as one text."""
    more = len(problems) - LISTED
    return "; ".join(problems[:LISTED]) + (f"; and {more} more" if more > 0 else "")


def hosts_of(told: Sequence[Told]) -> tuple[str, ...]:
    """The hosts of ``told``, each once."""
    return tuple(dict.fromkeys(each.host for each in told))


def first_of_hosts(told: Sequence[Told]) -> list[Told]:
    """The lowest rank of each host, in order."""
    first: dict[str, Told] = {}
    for each in sorted(told, key=lambda t: t.rank):
        first.setdefault(each.host, each)
    return list(first.values())
