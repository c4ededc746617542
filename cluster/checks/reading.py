"""Whether samples can be made as fast as the training takes them: the slowest rank decides, and hosts that are far behind are named."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from .result import FAILED, OK, WARNING, Result, Told, hosts_of, joined

ODD = 0.5  # of the median rank


def judge(told: Sequence[Told], needed: float, source: str, certain: bool) -> Result:
    """``told``: {"rate": samples/s, "error": text}; ``needed`` samples/s of one rank, 0 where nobody knows, ``source`` says from where.

    What is only estimated (not ``certain``) warns; what was measured or given fails.
    """
    figures = {"needed": needed, "source": source} | {f"rank {each.rank}": each.facts["rate"] for each in told}
    unable = [each for each in told if each.facts["error"]]
    if unable:
        problems = [f"{each.name}: {each.facts['error']}" for each in unable]
        return Result("store", FAILED, joined(problems), "foldline store verify STORE says what is damaged", figures, hosts_of(unable))
    slow = [each for each in told if each.facts["rate"] < needed]
    rates = [float(each.facts["rate"]) for each in told]
    if slow:
        problems = [f"{each.name} makes {each.facts['rate']:.2f} samples/s, a rank needs {needed:.2f} ({source})" for each in slow]
        remedy = "more data.workers, a faster file system for the store, or fewer MSA rows"
        return Result("store", FAILED if certain else WARNING, joined(problems), remedy, figures, hosts_of(slow))
    median = statistics.median(rates)
    odd = [f"{each.name} makes {each.facts['rate']:.2f} samples/s, the median rank {median:.2f}" for each in told if _odd(each, median)]
    if odd and len(told) > 2:
        return Result("store", WARNING, joined(odd), "look at that host's load and its way to the store", figures)
    enough = f"; {needed:.2f} are needed ({source})" if needed else ""
    return Result("store", OK, f"{min(rates):.2f} samples/s of the slowest rank, {sum(rates):.1f} of all{enough}", figures=figures)


def _odd(each: Told, median: float) -> bool:
    return float(each.facts["rate"]) < ODD * median
