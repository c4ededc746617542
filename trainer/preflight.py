"""The preflight of a run: what `cluster` checks, fed with what only the trainer knows of store, model and config.

``foldline preflight`` does all of it; ``foldline train`` does it before the ranks compute together, with a single rank only what is cheap.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from ..cluster.checks.result import FAILED, WARNING, Result, Told, hosts_of, joined
from ..cluster.links import Meeting, meet
from ..cluster.preflight import CHECKS, checks_to_do, failures, odd_hosts, show, to_json, with_way_out
from ..cluster.ranks import RankInfo, RendezvousError, discover
from ..errors import UNAVAILABLE, FoldlineError
from ..whole_file import write_atomic
from .config import RunConfig, load_config
from .engine import take_interface
from .preflight_facts import JUDGES, LOOKS, Job

CHEAP = ("gpu", "limits", "checkpoint")  # with a single rank
WRONG = 2  # exit code


def preflight_command(config_path: Path, overrides: Sequence[str]) -> int:
    """``foldline preflight``, on every rank of the job: 0 when nothing failed, else 2."""
    config = load_config(config_path, overrides)
    mine = discover()
    return WRONG if check(config, mine, whole=True).code else 0


@dataclass(frozen=True)
class Outcome:
    """The preflight's outcome. Keep it while the job runs: rank 0 serves the ranks' store through it.

    ``code``: 0 when nothing failed, 69 when it is all of some hosts' making, so that a start on others may do, else 2.
    """

    code: int
    meeting: Meeting | None


def check(config: RunConfig, mine: RankInfo, *, whole: bool) -> Outcome:
    """Check, tell (rank 0) and write ``RUN/preflight.json``. Collective.

    RendezvousError when not all ranks come to each other.
    """
    try:
        return _check_all(config, mine, whole)
    except dist.DistError as error:
        reason = str(error).splitlines()[0]
        raise RendezvousError(f"the preflight broke off on rank {mine.rank} on {mine.host}: {reason}; look at rank 0's output") from None


def _check_all(config: RunConfig, mine: RankInfo, whole: bool) -> Outcome:
    start = time.monotonic()
    names = checks_to_do(config.preflight, list(CHECKS) if mine.world > 1 or whole else CHEAP)
    meeting = None
    if mine.world > 1:
        take_interface(mine)  # pairs are to be measured on the way that the training takes
        patience = config.preflight.seconds
        meeting = meet(mine, patience if whole else max(patience, config.run.collective_timeout))
    job = Job(config, mine, meeting, whole, meeting.tell("mark", uuid.uuid4().hex) if meeting else uuid.uuid4().hex)
    results = [_check(job, name) for name in names]
    code = 0
    if mine.rank == 0 and names:
        odd = odd_hosts(results, [place.host for place in meeting.places] if meeting else [mine.host])
        code = 0 if not failures(results) else UNAVAILABLE if odd else WRONG
        _report(job, [with_way_out(result) for result in results], odd, time.monotonic() - start)
    if meeting:
        code = meeting.tell("verdict", code)
        meeting.part()
    return Outcome(code, meeting)


def _check(job: Job, name: str) -> Result:
    """Look on every rank, judge on rank 0 (what the others return counts nowhere)."""
    try:
        facts = LOOKS[name](job)
    except (FoldlineError, OSError) as error:
        facts = {"cannot": str(error) or type(error).__name__}
    gathered = job.meeting.gather(name, facts) if job.meeting else [facts]
    if job.mine.rank:
        return Result(name, "", "")
    places = job.meeting.places if job.meeting else [job.mine]
    told = [Told(place.rank, place.host, found) for place, found in zip(places, gathered, strict=True)]
    cannot = [each for each in told if "cannot" in each.facts]
    if cannot:
        return Result(name, FAILED, joined([f"{each.name}: {each.facts['cannot']}" for each in cannot]), hosts=hosts_of(cannot))
    return JUDGES[name](job, told)


def _report(job: Job, results: Sequence[Result], odd: Sequence[str], seconds: float) -> None:
    """Rank 0: the file, and on the terminal the table, or one line where a run begins and all is well."""
    places = job.meeting.places if job.meeting else [job.mine]
    path = job.run.root / "preflight.json"
    failed = failures(results)
    try:
        write_atomic(path, to_json(results, seconds, [place.describe() for place in places], odd))
        where = str(path)
    except OSError as error:  # the check of the folder has told that
        where = f"not written: {error}"
    if job.whole or failed:
        show(results)
    else:
        warnings = [f"preflight: {result.check}: {result.found} -> {result.remedy}" for result in results if result.state == WARNING]
        print("\n".join([*warnings, f"preflight: {', '.join(r.check for r in results)} checked in {seconds:.1f} s ({where})"]), flush=True)
    if failed:
        without = f"; without {', '.join(odd)} it would have passed: a start on other hosts may go on" if odd else ""
        line = f"foldline: the preflight failed: {', '.join(failed)}; the table above says why, and the way out ({where}){without}"
        print(line, file=sys.stderr)
    elif job.whole:
        print(f"nothing failed in {seconds:.1f} s ({where})", flush=True)
