"""Faults that come to processes: killed, stopped, asked to stop."""

from __future__ import annotations

import re
import signal

from .blow import Blow, Outcome, Scene, pick, telling
from .job import send
from .plan import PHASES, Traits

DONE, WRONG, STOPPED, LOST = 0, 2, 75, 69
BUSY = 20.0  # seconds beyond the collective time-out that a crowded machine may take to end the processes


class RankKilled(Blow):
    """SIGKILL of one rank: out of memory, a dead GPU."""

    traits = Traits("rank killed", PHASES, ends=True, early=True)

    def strike(self, scene: Scene) -> str:
        ranks = scene.job.ranks()
        if not ranks:  # not come so far yet: the start is hit instead
            scene.job.kill_all()
            return "SIGKILL to the launcher, before there were ranks"
        self._rank = sorted(ranks)[pick(self.fault.choice, len(ranks))]
        send(ranks[self._rank], signal.SIGKILL)
        return f"SIGKILL to rank {self._rank}, process {ranks[self._rank]}"

    def judge(self, outcome: Outcome) -> list[str]:
        if "before there were ranks" in outcome.done:
            return _ended_by_signal(outcome)
        line = telling(outcome.output, "exited on signal 9") or telling(outcome.output, "no sign of life")
        outcome.seen = line
        problems = [] if re.search(rf"\brank {self._rank}\b", line) else [f"no message names rank {self._rank}"]
        return problems + _ended_by_signal(outcome)


class AllKilled(Blow):
    """SIGKILL of every rank and of the launcher: the power goes."""

    traits = Traits("all killed", PHASES, ends=True, early=True)

    def strike(self, scene: Scene) -> str:
        count = len(scene.job.ranks())
        scene.job.kill_all()
        return f"SIGKILL to the launcher and {count} ranks"

    def judge(self, outcome: Outcome) -> list[str]:
        outcome.seen = "nothing; the job is gone"
        return _ended_by_signal(outcome)


class RankStopped(Blow):
    """SIGSTOP of one rank, for longer than the collective time-out: a host that hangs."""

    traits = Traits("rank stopped", ("training", "saving"), ends=True, early=True)

    def ready(self, scene: Scene) -> bool:
        return super().ready(scene) and bool(scene.job.ranks())

    def strike(self, scene: Scene) -> str:
        ranks = scene.job.ranks()
        self._rank = sorted(ranks)[pick(self.fault.choice, len(ranks))]
        self._pid, self._limit = ranks[self._rank], scene.config.run.collective_timeout
        send(self._pid, signal.SIGSTOP)
        return f"SIGSTOP to rank {self._rank}, process {self._pid}"

    def operate(self, scene: Scene, outcome: Outcome) -> str:
        send(self._pid, signal.SIGCONT)  # the host comes back; a rank that outlived its job must not go on training
        return ""

    def judge(self, outcome: Outcome) -> list[str]:
        outcome.seen = telling(outcome.output, f"rank {self._rank} on ", f"(process {self._pid}", "--resume")
        problems = [] if outcome.seen else [f"no message names rank {self._rank}, its host and process {self._pid}"]
        if outcome.code != LOST:
            problems.append(f"exit code {outcome.code}, not {LOST}")
        if outcome.seconds > self._limit + BUSY:
            problems.append(f"the others waited {outcome.seconds:.0f} s, run.collective_timeout is {self._limit:g} s")
        return problems


class StopSignal(Blow):
    """A scheduler's pre-emption."""

    traits = Traits("stop signal", ("training", "saving"), ends=True, early=True)

    def ready(self, scene: Scene) -> bool:
        return super().ready(scene) and bool(scene.job.ranks())

    def strike(self, scene: Scene) -> str:
        ranks = scene.job.ranks()
        rank = sorted(ranks)[pick(self.fault.amount, len(ranks))]
        targets = (
            (signal.SIGTERM, "the launcher", scene.job.process.pid),
            (signal.SIGUSR1, "the launcher", scene.job.process.pid),
            (signal.SIGTERM, f"rank {rank}", ranks[rank]),
        )
        number, name, pid = targets[pick(self.fault.choice, len(targets))]
        send(pid, number)
        return f"{number.name} to {name}"

    def judge(self, outcome: Outcome) -> list[str]:
        outcome.seen = telling(outcome.output, "stopped by a signal after step", "--resume")
        problems = [] if outcome.seen else ["no message says that it was stopped by a signal"]
        if outcome.code != STOPPED:
            problems.append(f"exit code {outcome.code}, not {STOPPED}")
        if outcome.lost:
            problems.append(f"{outcome.lost} steps were lost, though there was time to save")
        return problems


def _ended_by_signal(outcome: Outcome) -> list[str]:
    if outcome.code in (None, DONE, WRONG, STOPPED):
        return [f"exit code {outcome.code}: a scheduler would not start this job again"]
    return []
