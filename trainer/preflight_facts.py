"""What each check of the preflight looks at on a rank, and how rank 0 judges it: store, model and config in the terms of `cluster`."""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..cluster import health
from ..cluster.checks import clock, folder, limits, pairs, reading, same
from ..cluster.checks.pairs import Wanted
from ..cluster.checks.result import Result, Told
from ..cluster.links import Meeting
from ..cluster.plan import known_device
from ..cluster.ranks import RankInfo
from ..data_store.sampler import Cursor, open_order
from ..data_store.store import Store
from ..data_store.worker import SampleMaker
from ..errors import FoldlineError
from ..settings import flatten, to_dict
from .checkpoint import committed
from .checkpoint_state import BYTES
from .config import RunConfig, passes_per_step
from .config import to_json as config_json
from .engine import choose_device
from .journal import read_journal
from .plan import cost_of, parameter_bytes, step_seconds
from .provenance import PACKAGE, git_state
from .rundir import RunDir, environment

RECENT = 100  # steps of a resumed run that say how fast it takes samples
READING = {False: (1.0, 4), True: (3.0, 32)}  # seconds and samples at most, before a run and in `foldline preflight`


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
