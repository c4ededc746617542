"""``--max-restarts``: the ranks of this host are started again from the newest checkpoint when a rank was lost."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..cluster.launch import mpirun
from .crash import bundle_from_outside
from .run_state import settle
from .rundir import RunDir

FINAL = (0, 2, 75, 130)  # done, wrong input or over a budget, stopped by a signal, interrupted: starting again would not help
PATIENCE = 60.0  # seconds that ranks without a launcher may take to notice


def train_on_ranks(ranks: int, arguments: Sequence[str], root: Path, resume: bool, restarts: int) -> int:
    """Run ``foldline ARGUMENTS`` on ``ranks`` processes, and again with --resume, at most ``restarts`` times. The last exit code."""
    run = RunDir(root)
    for number in range(1, restarts + 2):
        since = time.time()
        code = mpirun(ranks, [*arguments, *(["--resume"] if resume else [])])
        settle(run.state, code)
        if code not in FINAL and (bundle := bundle_from_outside(run, since, f"the ranks ended with code {code}")):
            _say(f"crash bundle: {bundle}")
        if code in FINAL or number > restarts:
            if code not in FINAL:
                allowed = f" after {restarts} restarts, which is all that --max-restarts allows" if restarts else ""
                _say(f"the ranks ended with code {code}{allowed}; {_way_out(run)}")
            return code
        left = _still_running(run)
        if left:
            _say(f"the ranks ended with code {code}, but processes {left} of them still run; end these, then start again with --resume")
            return code
        newest = max(run.checkpoints.glob("step_*/manifest.json"), default=None)
        resume = newest is not None
        where = f"from {newest.parent}" if newest else f"from the beginning, for there is no checkpoint yet{_moved(set_aside(run))}"
        _say(f"the ranks ended with code {code}; restart {number} of {restarts} {where}")
    raise AssertionError("the last round returns")


def _way_out(run: RunDir) -> str:
    if any(run.checkpoints.glob("step_*/manifest.json")):
        return "go on with --resume"
    return f"there is no checkpoint yet, so start again in another run.dir, or delete {run.root}"


def _still_running(run: RunDir) -> list[int]:
    """Ranks of this host that outlive their launcher; they end by themselves at their next heartbeat, so wait for that."""
    here, end = socket.gethostname(), time.monotonic() + PATIENCE
    while True:
        pids = []
        for path in run.ranks.glob("rank_*.json"):
            try:
                about = json.loads(path.read_text())
                if about["host"] == here:
                    os.kill(int(about["pid"]), 0)
                    pids.append(int(about["pid"]))
            except (OSError, ValueError, KeyError, TypeError):
                continue
        if not pids or time.monotonic() > end:
            return pids
        time.sleep(0.2)


def set_aside(run: RunDir) -> Path | None:
    """Rename a run directory without a checkpoint, so that a new start finds none; nothing of it is deleted. Where it is now, None where
    there was none.
    """
    if not run.root.exists():
        return None
    number = 1
    while (aside := run.root.with_name(f"{run.root.name}.lost_{number}")).exists():
        number += 1
    run.root.rename(aside)
    return aside


def _moved(aside: Path | None) -> str:
    return f"; what there was is in {aside}" if aside else ""


def _say(message: str) -> None:
    print(f"foldline: {message}", file=sys.stderr, flush=True)
