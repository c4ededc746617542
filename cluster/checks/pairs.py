"""Latency and bandwidth between every two hosts, by the library that the training uses (gloo on the CPU, NCCL on CUDA).

The first ranks of two hosts form a group of their own; in each round every host has one partner, so no host is measured twice at a time.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from ..links import Meeting
from .result import FAILED, OK, WARNING, Result, Told, joined

ROUNDS = 12  # of pairs; with more hosts than that each is measured with so many partners
PROBE, LARGEST = 1 << 16, {"cpu": 1 << 26, "cuda": 1 << 28}  # bytes
TARGET = 0.15  # seconds of one all-reduce of the chosen size
CALLS, REPEATS = 20, 3
DEAD = 10.0  # seconds after which a pair counts as not reachable
GIVE_UP = 2  # dead pairs after which a host stops
GLOO_STREAM = 10.0  # Gbit/s that one pair of gloo's ranks is expected to move at most, whatever the card
ODD_BANDWIDTH, ODD_LATENCY, LEAST_ODD_MS = 0.5, 4.0, 1.0  # of the median pair; and milliseconds below which no pair is odd


@dataclass(frozen=True)
class Wanted:
    """What is expected: ``gbit`` a link's rate, 0 = the card's; ``share`` of it that must come; ``latency_ms`` of one small all-reduce."""

    gbit: float
    share: float
    latency_ms: float


def schedule(hosts: int) -> list[list[tuple[int, int]]]:
    """Rounds of disjoint pairs of hosts that hold every pair once (circle method), at most ROUNDS of them, evenly chosen."""
    places = [*range(hosts), *([-1] if hosts % 2 else [])]
    rounds = []
    for _ in range(len(places) - 1):
        half = len(places) // 2
        pairs = zip(places[:half], reversed(places[half:]), strict=True)
        rounds.append([(min(p), max(p)) for p in pairs if -1 not in p])
        places = [places[0], places[-1], *places[1:-1]]
    step = max(1.0, len(rounds) / ROUNDS)
    return [rounds[int(i * step)] for i in range(min(ROUNDS, len(rounds)))]


def look(meeting: Meeting, device: str) -> dict[str, Any]:
    """{"pairs": what this rank measured with each partner, or why it could not, "card": Gbit/s}; only hosts' first ranks measure."""
    mine = meeting.mine
    leaders = leaders_of(meeting)
    if mine.rank not in leaders:
        return {"pairs": [], "card": 0.0}
    here = leaders.index(mine.rank)
    found: list[dict[str, Any]] = []
    dead = 0
    for pair in (pair for each in schedule(len(leaders)) for pair in each if here in pair):
        key = f"pair/{pair[0]}-{pair[1]}"
        if dead >= GIVE_UP or not _both_ready(meeting, key, here == pair[1]):
            meeting.store.set(f"{key}/out", "1")
            found.append({"hosts": pair, "error": "not measured, for one of the two hosts reaches others neither"})
            continue
        measured = _measure_pair(meeting, key, here == pair[1], device) | {"hosts": pair}
        dead += bool(measured["error"])
        found.append(measured)
    return {"pairs": found, "card": card_gbit(device)}


def leaders_of(meeting: Meeting) -> list[int]:
    """The first rank of each host, in order."""
    first: dict[str, int] = {}
    for place in meeting.places:
        first.setdefault(place.host, place.rank)
    return list(first.values())


def _both_ready(meeting: Meeting, key: str, second: bool) -> bool:
    """Wait for the partner, who may still be with another one. False when he has given up."""
    store = meeting.store
    store.set(f"{key}/{int(second)}", "1")
    end = time.monotonic() + 6 * DEAD
    while not store.check([f"{key}/{int(not second)}"]):
        if store.check([f"{key}/out"]) or time.monotonic() > end:
            return False
        time.sleep(0.005)
    return not store.check([f"{key}/out"])


def _measure_pair(meeting: Meeting, key: str, second: bool, device: str) -> dict[str, Any]:
    """Always by gloo first, which fails in time where two hosts cannot talk; NCCL would end the process."""
    figures: dict[str, Any] = {"error": ""}
    try:
        for kind in dict.fromkeys(("cpu", device)):
            group = _group(meeting, f"{key}/{kind}", second, kind)
            figures |= measure(group, kind, latency_only=kind != device)
            group.shutdown()
    except RuntimeError as error:
        return {"error": str(error).splitlines()[0][:200]}
    return figures


def _group(meeting: Meeting, key: str, second: bool, device: str) -> Any:
    import torch.distributed as dist

    store = dist.PrefixStore(key, meeting.store)  # type: ignore[attr-defined]
    wait = timedelta(seconds=DEAD)
    if device == "cpu":
        return dist.ProcessGroupGloo(store, int(second), 2, wait)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = wait
    return dist.ProcessGroupNCCL(store, int(second), 2, options)


def measure(group: Any, device: str, *, latency_only: bool) -> dict[str, float]:
    """``latency_ms`` of the smallest all-reduce (least and median), Gbit/s on the wire of an all-reduce and an all-to-all of two ranks.

    Of several calls the best counts: it is what the link gives when the processor is not busy with something else.
    """
    import torch

    one = torch.zeros(1, device=device)
    times = _times(lambda: group.allreduce([one]).wait(), CALLS, device)
    figures = {"latency_ms": min(times) * 1e3, "latency_median_ms": statistics.median(times) * 1e3}
    if latency_only:
        return figures
    data = torch.zeros(PROBE // 4, device=device)
    took = torch.tensor([min(_times(lambda: group.allreduce([data]).wait(), 1, device))], device=device)
    group.allreduce([took]).wait()  # the mean of the two: both must choose the same size
    size = min(LARGEST[device], max(PROBE, int(TARGET / max(float(took) / 2, 1e-6) * PROBE))) // 8 * 8
    data, out = (torch.zeros(size // 4, device=device) for _ in range(2))
    reduced = min(_times(lambda: group.allreduce([data]).wait(), REPEATS, device))
    exchanged = min(_times(lambda: group.alltoall_base(out, data, [], []).wait(), REPEATS, device))
    # Of two ranks each sends all of it once in an all-reduce, and half of it in an all-to-all.
    return figures | {"bytes": size, "all_reduce_gbit": size * 8e-9 / reduced, "all_to_all_gbit": size * 4e-9 / exchanged}


def _times(call: Callable[[], Any], number: int, device: str) -> list[float]:
    import torch

    times = []
    for _ in range(number + 1):  # the first one connects and is left out
        start = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times[1:]


def card_gbit(device: str) -> float:
    """Gbit/s that this host's network should give to one rank: InfiniBand's for NCCL where it is up, else the card's; 0 = not known."""
    infiniband = [_infiniband(port) for port in Path("/sys/class/infiniband").glob("*/ports/*")]
    if device != "cpu" and infiniband:
        return max(infiniband)
    card = Path("/sys/class/net") / _interface()
    if not (card / "device").exists():
        return 0.0  # a virtual card's rate is made up
    try:
        rate = max(0.0, int((card / "speed").read_text()) / 1e3)
    except (OSError, ValueError):
        return 0.0
    return min(rate, GLOO_STREAM) if device == "cpu" else rate


def _infiniband(port: Path) -> float:
    try:
        if "ACTIVE" in (port / "state").read_text():
            return float((port / "rate").read_text().split()[0])  # "400 Gb/sec (4X NDR)"
    except (OSError, ValueError, IndexError):
        pass
    return 0.0


def _interface() -> str:
    """The interface that gloo takes: the named one, else that of the host name's address."""
    import psutil

    named = os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")[0]
    if named:  # by the user, or as the way to rank 0
        return named
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        return ""
    owners = (name for name, kinds in psutil.net_if_addrs().items() if any(kind.address == address for kind in kinds))
    return next(owners, "")


def judge(told: Sequence[Told], wanted: Wanted) -> Result:
    """Every pair against the link's rate, or the median pair where nobody knows it; a host that all slow pairs share is named."""
    hosts = list(dict.fromkeys(each.host for each in sorted(told, key=lambda t: t.rank)))
    first = {host: next(each for each in told if each.host == host) for host in hosts}
    pairs = _merged(told)
    rounds = schedule(len(hosts))
    figures: dict[str, Any] = {"pairs": [{"hosts": [hosts[a], hosts[b]], **pairs[a, b]} for a, b in sorted(pairs)]}
    figures["cards"] = {host: first[host].facts["card"] for host in hosts}
    if not pairs:
        return Result("links", OK, "one host: no link to measure", figures=figures)
    dead, slow = [], []
    for (a, b), pair in sorted(pairs.items()):
        name = f"{first[hosts[a]].name} - {first[hosts[b]].name}"
        if pair["error"]:
            dead.append(((a, b), f"{name}: no connection ({pair['error']})"))
            continue
        card = min(first[hosts[i]].facts["card"] for i in (a, b))
        problems = _problems(pair, list(pairs.values()), wanted, wanted.gbit or card)
        if problems:
            slow.append(((a, b), f"{name}: {', '.join(problems)}"))
    bad = [*dead, *slow]
    if bad:
        shared = set(bad[0][0]).intersection(*(pair for pair, _ in bad))
        alone = len(shared) == 1 and len(bad) > 1
        culprit = f"{hosts[min(shared)]} is in all {len(bad)} bad pairs; " if alone else ""
        concerned = tuple(hosts[i] for i in sorted(shared if alone else {i for pair, _ in bad for i in pair}))
        remedy = (
            "look at cable, switch port and interface of these hosts (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME); "
            "or give what is to be expected: preflight.link_gbit, preflight.link_share, preflight.latency_ms"
        )
        return Result("links", FAILED, culprit + joined([text for _, text in bad]), remedy, figures, concerned)
    measured = list(pairs.values())
    least, most = min(p["all_reduce_gbit"] for p in measured), max(p["latency_ms"] for p in measured)
    some = "" if len(measured) == len(hosts) * (len(hosts) - 1) // 2 else f" in {len(rounds)} rounds"
    found = f"{len(measured)} pair{'s' * (len(measured) > 1)} of hosts{some}: at least {least:.2f} Gbit/s, at most {most:.2f} ms"
    known = wanted.gbit or min((first[host].facts["card"] for host in hosts), default=0.0)
    if not known and len(measured) < 3:
        remedy = "give the rate of a link: preflight.link_gbit"
        return Result("links", WARNING, f"{found}; the card tells no rate, so the bandwidth is not judged", remedy, figures)
    return Result("links", OK, found, figures=figures)


def _merged(told: Sequence[Told]) -> dict[tuple[int, int], dict[str, Any]]:
    """By pair, what the two sides measured: an error of either counts, else the slower figures."""
    pairs: dict[tuple[int, int], dict[str, Any]] = {}
    for each in told:
        for measured in each.facts["pairs"]:
            a, b = measured["hosts"]
            values = {key: value for key, value in measured.items() if key != "hosts"}
            before = pairs.get((a, b))
            if before is None or before["error"] or values["error"]:
                pairs[a, b] = before if before is not None and before["error"] else values
            else:
                pairs[a, b] = {
                    key: value if key == "error" else (max if key.startswith("latency") else min)(value, before[key])
                    for key, value in values.items()
                }
    return pairs


def _problems(pair: dict[str, Any], everyone: Sequence[dict[str, Any]], wanted: Wanted, gbit: float) -> list[str]:
    problems = []
    if pair["latency_ms"] > wanted.latency_ms:
        problems.append(f"{pair['latency_ms']:.2f} ms for the smallest all-reduce, at most {wanted.latency_ms:g} ms are expected")
    good = [other for other in everyone if not other["error"]]
    usual = statistics.median(other["latency_ms"] for other in good)
    if not problems and len(good) > 2 and pair["latency_ms"] > max(ODD_LATENCY * usual, LEAST_ODD_MS):
        problems.append(f"{pair['latency_ms']:.2f} ms for the smallest all-reduce, the median pair {usual:.2f}")
    for kind in ("all_reduce", "all_to_all"):
        rate, called = pair[f"{kind}_gbit"], kind.replace("_", "-")
        median = statistics.median(other[f"{kind}_gbit"] for other in good)
        if gbit and rate < wanted.share * gbit:
            problems.append(f"{called} {rate:.2f} Gbit/s, less than {wanted.share:.0%} of the link's {gbit:g}")
        elif not gbit and len(good) > 2 and rate < ODD_BANDWIDTH * median:
            problems.append(f"{called} {rate:.2f} Gbit/s, the median pair {median:.2f}")
    return problems
