"""The ranks' first meeting: who comes, who does not, and a place to exchange what each has found, before any process group exists.

A collective with an unreachable rank only times out. Here rank 0 keeps a key-value store (torch's), the others come to it, and whoever
is missing is named. What is exchanged goes through that store too, so a broken link between two other hosts cannot hold it up.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from .checks.result import listed
from .ranks import RankInfo, RendezvousError

POLL = 0.05
LATE = 15.0  # seconds beyond the time-out that the others wait for rank 0's word
WAY_OUT = "look at their output and hosts; see that {place} is reachable from there (host name, firewall, network interface)"


class Meeting:
    """The store of a job whose ranks have all come. Keep it as long as anything of the store is in use."""

    def __init__(self, mine: RankInfo, store: Any, places: Sequence[RankInfo], seconds: float) -> None:
        self.mine = mine
        self.store = store
        self.places = list(places)
        self._seconds = seconds

    def gather(self, topic: str, value: Any) -> list[Any]:
        """Every rank's ``value`` (JSON) in order on rank 0, [] on the others. RendezvousError that names who does not deliver in time."""
        self.store.set(f"{topic}/{self.mine.rank}", json.dumps(value))
        if self.mine.rank:
            return []
        missing = _await(self.store, topic, self.mine.world, self._seconds)
        if missing:
            names = [f"rank {rank} on {self.places[rank].host}" for rank in missing]
            raise RendezvousError(
                f"{listed(names)} did not tell its part of the preflight ({topic}) within {self._seconds:g} s; look at it"
            )
        return [json.loads(self.store.get(f"{topic}/{rank}")) for rank in range(self.mine.world)]

    def tell(self, topic: str, value: Any = None) -> Any:
        """Rank 0's ``value`` (JSON), on every rank."""
        if self.mine.rank == 0:
            self.store.set(topic, json.dumps(value))
            return value
        return json.loads(_wait(self.store, topic, self._seconds + LATE, self.mine))

    def part(self) -> None:
        """Rank 0 stays until the others have read what it told: the store goes with it."""
        self.store.set(f"parted/{self.mine.rank}", "1")
        if self.mine.rank == 0:
            _await(self.store, "parted", self.mine.world, LATE)


def meet(mine: RankInfo, seconds: float) -> Meeting:
    """Wait for all ranks of the job at rank 0's address. RendezvousError, on every rank that came, that names those that did not."""
    store = _open(mine, seconds)
    store.set(f"here/{mine.rank}", json.dumps(asdict(mine)))
    if mine.rank == 0:
        missing = _await(store, "here", mine.world, seconds)
        came = [rank for rank in range(mine.world) if rank not in missing]
        places = [json.loads(store.get(f"here/{rank}")) for rank in came]
        hosts = list(dict.fromkeys(place["host"] for place in places))
        problem = _absent(mine, missing, hosts, seconds) if missing else _contradiction(places)
        store.set("met", json.dumps({"problem": problem, "places": [] if problem else places}))
    told = json.loads(_wait(store, "met", seconds + LATE, mine))
    if told["problem"]:
        raise RendezvousError(told["problem"])
    places = [{key: tuple(value) if isinstance(value, list) else value for key, value in place.items()} for place in told["places"]]
    return Meeting(mine, store, [RankInfo(**place) for place in places], seconds)


def _open(mine: RankInfo, seconds: float) -> Any:
    from torch.distributed import DistError, PrefixStore, TCPStore  # type: ignore[attr-defined]

    serves = mine.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # torchrun's agent keeps the store itself
    wait = timedelta(seconds=seconds)
    try:
        store = TCPStore(mine.address, mine.port, mine.world, serves, wait, wait_for_workers=False, multi_tenant=True)
    except DistError as error:
        place = f"{mine.address}:{mine.port}"
        reason = str(error).splitlines()[0]
        raise RendezvousError(
            f"rank {mine.rank} on {mine.host} cannot meet the others at {place} ({reason}); "
            f"the launcher ({mine.source}) must name rank 0's host and a port that is free there; {WAY_OUT.format(place=place)}"
        ) from None
    return PrefixStore("foldline", store)


def _await(store: Any, topic: str, world: int, seconds: float) -> list[int]:
    """Ranks whose key ``topic/RANK`` is not there after ``seconds``."""
    end = time.monotonic() + seconds
    missing = list(range(world))
    while missing:
        missing = [rank for rank in missing if not store.check([f"{topic}/{rank}"])]
        if time.monotonic() > end:
            break
        time.sleep(POLL if missing else 0)
    return missing


def _wait(store: Any, key: str, seconds: float, mine: RankInfo) -> str:
    from torch.distributed import DistError

    try:
        store.wait([key], timedelta(seconds=seconds))
        return str(store.get(key), "utf-8")
    except (DistError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RendezvousError(
            f"rank {mine.rank} on {mine.host} has no answer from rank 0 at {mine.address}:{mine.port} ({reason}); look at rank 0's output"
        ) from None


def _absent(mine: RankInfo, missing: Sequence[int], hosts: Sequence[str], seconds: float) -> str:
    place = f"{mine.address}:{mine.port}"
    who = f"rank{'s' * (len(missing) > 1)} {listed([str(rank) for rank in missing])} of {mine.world}"
    return f"{who} did not come to {place} within {seconds:g} s; those of {listed(hosts)} did; {WAY_OUT.format(place=place)}"


def _contradiction(places: Sequence[dict[str, Any]]) -> str:
    """Ranks that do not agree on the job that they are of; "" where they do."""
    worlds = {place["world"] for place in places}
    return (
        f"the ranks take the job for one of {' and '.join(map(str, sorted(worlds)))} ranks; start them all alike" if len(worlds) > 1 else ""
    )
