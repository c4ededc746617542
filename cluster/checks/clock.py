"""How far the hosts' clocks are apart. Journals, file times and tickets count on them; Foldline's own decisions do not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from .result import FAILED, OK, Result, Told, first_of_hosts, hosts_of, joined

TICKS, PAUSE = 5, 0.05


def look(store: Any, rank: int, world: int) -> dict[str, float]:
    """{"ahead": seconds that this rank's clock is ahead of rank 0's}. Collective; ``store`` is torch's key-value store.

    Rank 0 sends its time to the waiting others. A delay makes them look ahead, never behind, so the least of several counts; it errs by
    the way through the network, far below what matters here.
    """
    ahead = []
    store.add("tick/waiting", 1)
    for tick in range(TICKS):
        if rank == 0:
            while tick == 0 and store.add("tick/waiting", 0) < world:
                time.sleep(PAUSE / 5)
            time.sleep(PAUSE)
            store.set(f"tick/{tick}", repr(time.time()))
            ahead.append(0.0)
        else:
            sent = float(store.get(f"tick/{tick}"))
            ahead.append(time.time() - sent)
    return {"ahead": min(ahead)}


def judge(told: Sequence[Told], limit: float) -> Result:
    """Hosts whose clocks are more than ``limit`` seconds from the others'; of two hosts rank 0's is the one compared with."""
    hosts = first_of_hosts(told)
    ahead = {each.rank: float(each.facts["ahead"]) for each in hosts}
    reference = hosts[0] if len(hosts) < 3 else sorted(hosts, key=lambda each: ahead[each.rank])[(len(hosts) - 1) // 2]
    off = [(each, ahead[each.rank] - ahead[reference.rank]) for each in hosts]
    wrong = [(each, value) for each, value in off if abs(value) > limit]
    problems = [
        f"the clock of {each.name} is {abs(value):.3f} s {'ahead of' if value > 0 else 'behind'} that of {reference.name}, "
        f"the limit is {limit:g} s"
        for each, value in wrong
    ]
    figures = {each.host: round(value, 6) for each, value in off}
    if problems:
        remedy = "let chrony or ntpd set that host's clock, or raise preflight.clock_seconds"
        return Result("clock", FAILED, joined(problems), remedy, figures, hosts_of([each for each, _ in wrong]))
    worst = max((abs(value) for _, value in off), default=0.0)
    return Result("clock", OK, f"{len(hosts)} host{'s' * (len(hosts) > 1)} within {worst:.3f} s (limit {limit:g} s)", figures=figures)
