"""The preflight of a run: what `cluster` checks, fed with what only the trainer knows of store, model and config.

``foldline preflight`` does all of it; ``foldline train`` does it before the ranks compute together, with a single rank only what is cheap.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..cluster import health
from ..cluster.checks import clock, folder, limits, pairs, reading, same
from ..cluster.checks.pairs import Wanted
from ..cluster.checks.result import FAILED, WARNING, Result, Told, joined
from ..cluster.links import Meeting, meet
from ..cluster.plan import known_device
from ..cluster.preflight import CHECKS, checks_to_do, failures, show, to_json, with_way_out
from ..cluster.ranks import RankInfo, discover
from ..data_store.sampler import Cursor, open_order
from ..data_store.store import Store
from ..data_store.worker import SampleMaker
from ..errors import FoldlineError
from ..settings import flatten, to_dict
from ..whole_file import write_atomic
from .checkpoint import committed
from .checkpoint_state import BYTES
from .config import RunConfig, load_config, passes_per_step
from .config import to_json as config_json
from .engine import choose_device, take_interface
from .journal import read_journal
from .plan import cost_of, parameter_bytes, step_seconds
from .provenance import PACKAGE, git_state
from .rundir import RunDir, environment

CHEAP = ("gpu", "limits", "checkpoint")  # with a single rank
WRONG = 2  # exit code
RECENT = 100  # steps of a resumed run that say how fast it takes samples
READING = {False: (1.0, 4), True: (3.0, 32)}  # seconds and samples at most, in the reading of the whole preflight and of a run's own


@dataclass(frozen=True)
class Job:
    """What the checks look at; ``meeting`` is None with a single rank."""

    config: RunConfig
    mine: RankInfo
    meeting: Meeting | None
    whole: bool  # asked for by `foldline preflight`
    mark: str  # of this preflight

    @property
    def run(self) -> RunDir:
        return RunDir(Path(self.config.run.dir))

    @property
    def device(self) -> str:
        wanted = self.config.run.device
        return wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def preflight_command(config_path: Path, overrides: Sequence[str]) -> int:
    """``foldline preflight``, on every rank of the job: 0 when nothing failed, else 2."""
    config = load_config(config_path, overrides)
    mine = discover()
    return 0 if passed(config, mine, whole=True) else WRONG


@dataclass(frozen=True)
class Passed:
    """The preflight's outcome. Keep it while the job runs: rank 0 serves the ranks' store through it."""

    meeting: Meeting | None


def passed(config: RunConfig, mine: RankInfo, *, whole: bool) -> Passed | None:
    """Check, tell (rank 0) and write ``RUN/preflight.json``; None when something failed. Collective.

    FoldlineError when not all ranks come to each other.
    """
    try:
        return _passed(config, mine, whole)
    except dist.DistError as error:
        reason = str(error).splitlines()[0]
        raise FoldlineError(f"the preflight broke off on rank {mine.rank} on {mine.host}: {reason}; look at rank 0's output") from None


def _passed(config: RunConfig, mine: RankInfo, whole: bool) -> Passed | None:
    start = time.monotonic()
    names = checks_to_do(config.preflight, list(CHECKS) if mine.world > 1 or whole else CHEAP)
    meeting = None
    if mine.world > 1:
        take_interface(mine)  # pairs are to be measured on the way that the training takes
        meeting = meet(mine, config.preflight.seconds if whole else config.run.collective_timeout)
    job = Job(config, mine, meeting, whole, meeting.tell("mark", uuid.uuid4().hex) if meeting else uuid.uuid4().hex)
    results = [_check(job, name) for name in names]
    bad = failures(results) if mine.rank == 0 else []
    if mine.rank == 0 and names:
        _report(job, [with_way_out(result) for result in results], time.monotonic() - start)
    if meeting:
        bad = meeting.tell("verdict", bad)
        meeting.part()
    return None if bad else Passed(meeting)


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
    cannot = [f"{each.name}: {each.facts['cannot']}" for each in told if "cannot" in each.facts]
    if cannot:
        return Result(name, FAILED, joined(cannot))
    return JUDGES[name](job, told)


def _report(job: Job, results: Sequence[Result], seconds: float) -> None:
    """Rank 0: the file, and on the terminal the table, or one line where a run begins and all is well."""
    places = job.meeting.places if job.meeting else [job.mine]
    path = job.run.root / "preflight.json"
    failed = failures(results)
    try:
        write_atomic(path, to_json(results, seconds, [place.describe() for place in places]))
        where = str(path)
    except OSError as error:  # the check of the folder has told that
        where = f"not written: {error}"
    if job.whole or failed:
        show(results)
    else:
        warnings = [f"preflight: {result.check}: {result.found} -> {result.remedy}" for result in results if result.state == WARNING]
        print("\n".join([*warnings, f"preflight: {', '.join(r.check for r in results)} checked in {seconds:.1f} s ({where})"]), flush=True)
    if failed:
        print(f"foldline: the preflight failed: {', '.join(failed)}; the table above says why, and the way out ({where})", file=sys.stderr)
    elif job.whole:
        print(f"nothing failed in {seconds:.1f} s ({where})", flush=True)


def _look_code(job: Job) -> dict[str, str]:
    state = git_state(PACKAGE) if job.mine.local_rank == 0 else {}
    commit = {"commit": f"{state['commit'][:12]}{' with changes' if state['dirty'] else ''}"} if state else {}
    return {"sources": same.source_hash(PACKAGE)[:12]} | commit


def _look_packages(job: Job) -> dict[str, str]:
    about = environment()
    versions = {"foldline": about["foldline"], "python": about["python"]} | about["packages"]
    if job.device == "cuda":
        versions |= {"CUDA": str(torch.version.cuda), "NCCL": ".".join(map(str, torch.cuda.nccl.version()))}
    return versions


def _look_config(job: Job) -> dict[str, str]:
    """The hash of every rank's; of the first rank of each host every key, so that the odd one is told."""
    keys = {key: str(value) for key, value in flatten(to_dict(job.config)).items()} if job.mine.local_rank == 0 else {}
    return keys | {"config hash": hashlib.sha256(config_json(job.config).encode()).hexdigest()[:12]}


def _look_dataset(job: Job) -> dict[str, str]:
    return {"dataset": Store.open(job.config.data.store).content_hash[:16]}


def _look_gpu(job: Job) -> dict[str, Any]:
    facts = health.look() if job.mine.local_rank == 0 else {"gpus": [], "driver": "", "error": ""}
    return facts | {"pids": [os.getpid()], "cuda": job.device == "cuda"}


def _look_folder(job: Job) -> dict[str, Any]:
    problem = folder.leave_mark(job.run.checkpoints, job.mark) if job.mine.rank == 0 else ""
    if job.meeting:
        problem = job.meeting.tell("checkpoint/mark", problem)
    return folder.look(job.run.checkpoints, job.mark, job.mine.rank) | {"mark_problem": problem}


def _look_store(job: Job) -> dict[str, Any]:
    """Samples per second that this rank's workers can make: one process measured, while the other ranks read as well."""
    config, mine = job.config, job.mine
    seconds, most = READING[job.whole]
    try:
        order = open_order(config.data.store, config.data, config.features)
        make = SampleMaker(config.data.store, config.features)
        tasks = order.share(Cursor(), mine.rank, mine.world, config.run.micro_batch, passes_per_step(config, mine.world))
        make(next(tasks))  # opens files; what counts is how it goes on
        start, made = time.perf_counter(), 0
        for task in islice(tasks, most):
            make(task)
            made += 1
            if time.perf_counter() - start > seconds:
                break
        rate = made / max(time.perf_counter() - start, 1e-9)
    except FoldlineError as error:
        return {"rate": 0.0, "error": str(error)}
    processes = max(1, min(config.data.workers, len(os.sched_getaffinity(0)) // mine.local_world))
    return {"rate": rate * processes, "error": ""}


def _look_clock(job: Job) -> dict[str, float]:
    if job.meeting is None:
        return {"ahead": 0.0}
    return clock.look(job.meeting.store, job.mine.rank, job.mine.world)


def _look_links(job: Job) -> dict[str, Any]:
    if job.meeting is None:
        return {"pairs": [], "card": 0.0}
    if job.device == "cuda":
        torch.cuda.set_device(choose_device(job.config, job.mine))
    return pairs.look(job.meeting, job.device)


LOOKS: dict[str, Callable[[Job], Any]] = {
    "code": _look_code,
    "packages": _look_packages,
    "config": _look_config,
    "dataset": _look_dataset,
    "gpu": _look_gpu,
    "limits": lambda job: limits.look(job.mine.local_world, job.device == "cuda"),
    "checkpoint": _look_folder,
    "store": _look_store,
    "clock": _look_clock,
    "links": _look_links,
}


def _judge_same(name: str) -> Callable[[Job, Sequence[Told]], Result]:
    return lambda job, told: same.judge(name, told)


def _judge_gpu(job: Job, told: Sequence[Told]) -> Result:
    own = [pid for each in told for pid in each.facts["pids"]]
    return health.judge([Told(each.rank, each.host, {**each.facts, "pids": own}) for each in told])


def _judge_folder(job: Job, told: Sequence[Told]) -> Result:
    run = job.config.run
    folder.clear_marks(job.run.checkpoints)
    size = BYTES * parameter_bytes(job.config.model) // 4 + (1 << 20)  # as the writer counts it
    wanted = run.keep_last + run.keep_best + 1  # the oldest goes when the newest is there
    return folder.judge(told, told[0].facts["mark_problem"], size, wanted, len(committed(job.run.checkpoints)))


def _judge_store(job: Job, told: Sequence[Told]) -> Result:
    return reading.judge(told, *needed_rate(job.config, job.run, job.mine.world, job.device))


def _judge_links(job: Job, told: Sequence[Told]) -> Result:
    given = job.config.preflight
    return pairs.judge(told, Wanted(given.link_gbit, given.link_share, given.latency_ms))


JUDGES: dict[str, Callable[[Job, Sequence[Told]], Result]] = {
    **{name: _judge_same(name) for name in same.REMEDIES},
    "gpu": _judge_gpu,
    "limits": lambda job, told: limits.judge(told),
    "checkpoint": _judge_folder,
    "store": _judge_store,
    "clock": lambda job, told: clock.judge(told, job.config.preflight.clock_seconds),
    "links": _judge_links,
}


def needed_rate(config: RunConfig, run: RunDir, world: int, device: str) -> tuple[float, str, bool]:
    """(samples/s of one rank, where that is from, whether it is more than an estimate); 0.0 where nobody knows."""
    given = config.preflight.samples_per_second
    if given:
        return given, "preflight.samples_per_second", True
    history = read_journal(run.journal) if run.journal.exists() else []
    rates = [r.metrics.get("speed/samples_per_second", 0.0) for r in history if r.kind == "train"][-RECENT:]
    if rates:
        return statistics.median(rates) / world, f"what the last {len(rates)} steps of this run took", False
    gpu = known_device(torch.cuda.get_device_name(0)) if device == "cuda" else None
    if gpu is None:
        return 0.0, "unknown", False
    cost = cost_of(config, config.features.crop_size, config.deepspeed.checkpoint_blocks_every)
    seconds = sum(step_seconds(config, gpu, world, cost).values())
    return config.run.micro_batch * passes_per_step(config, world) / seconds, f"planned for {gpu.name}", False
