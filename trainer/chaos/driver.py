"""The disturbed run: faults come, and the job is started again as a job script does it, by exit codes alone.

Where a fault needs a person's hand (a full disk, a damaged store) the job must say so with exit code 2, and that is done and nothing else.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..checkpoint import committed
from ..restarts import set_aside
from . import checks
from .blow import Blow, Outcome, Scene
from .job import Job
from .plan import Fault

POLL = 0.01  # seconds between looks
PATIENCE = 300.0  # seconds beyond the collective time-out in which a job must get on: its start takes most of them
INPUT = 2  # exit code of what a person must mend
SYNC = re.compile(r"send it with: foldline (track sync .+)")

Start = Callable[[int, bool], Job]  # number, whether with --resume


class Driver:
    """``run`` returns when all steps are done, or when it cannot go on. ``tell`` hears each outcome once it is complete."""

    def __init__(self, scene: Scene, blows: Sequence[Blow], start: Start, tell: Callable[[Outcome], None]) -> None:
        self.problems: list[str] = []  # that belong to no fault
        self.outcomes: list[Outcome] = []
        self.logs: list[Path] = []
        self.codes: list[int] = []  # of every start
        self._scene, self._start, self._tell = scene, start, tell
        self._coming = list(blows)
        self._blows: dict[int, Blow] = {}  # by number of fault
        self._active: Outcome | None = None
        self._lingering: list[Outcome] = []
        self._waiting: list[Outcome] = []  # to see from where the job goes on
        self._armed: float | None = None  # when the next fault strikes, once its moment has come
        self._mark = 0  # length of the output when the active fault struck

    def run(self) -> None:
        """Start, and start again, until the run is over."""
        most = 3 * len(self._coming) + 5
        while len(self.codes) < most:
            job = self._scene.job = self._start(len(self.codes) + 1, self._resumes())
            self.logs.append(job.log)
            self._attend(job)
            code = job.process.wait()
            self.codes.append(code if code >= 0 else 128 - code)
            if not self._ended(job, self.codes[-1]):
                break
        else:
            self.problems.append(f"the run is not over after {most} starts")
        self._close()

    def _resumes(self) -> bool:
        """As job scripts do: a later start goes on; before there is a checkpoint it begins anew, beside what there was."""
        run = self._scene.run
        if self.codes and not committed(run.checkpoints):
            set_aside(run)
        return run.root.exists() and bool(self.codes)

    def _attend(self, job: Job) -> None:
        while job.code is None:
            job.look()
            self._resumed(job)
            self._look_at_lingering()
            if self._active is not None:
                self._look_at_active(job)
            elif self._coming and self._due(self._coming[0], job):
                self._strike(self._coming.pop(0), job)
            if time.monotonic() - job.moved > self._scene.config.run.collective_timeout + PATIENCE:
                self.problems.append(f"start {len(self.logs)} hangs: no step for {time.monotonic() - job.moved:.0f} s; it was killed")
                job.kill_all()
            time.sleep(POLL)
        job.look()
        self._resumed(job)

    def _due(self, blow: Blow, job: Job) -> bool:
        """Whether the moment of the next fault has come: its step and phase, and the fraction of the phase after that."""
        fault, pace = blow.fault, self._scene.pace
        if self._armed is None:
            if fault.phase != "starting":
                if job.step is None or job.step < fault.step - 1 or not blow.ready(self._scene):
                    return False
                if fault.phase == "saving" and not job.saving:
                    return False
            elif not blow.ready(self._scene):
                return False
            begin = time.monotonic() - (job.seconds if fault.phase == "starting" else 0.0)
            self._armed = begin + fault.fraction * pace.of(fault.phase)
        passing = fault.phase == "starting" and job.step is not None  # this start is quicker than the undisturbed one was
        return passing or time.monotonic() >= self._armed

    def _strike(self, blow: Blow, job: Job) -> None:
        self._armed, self._mark = None, len(job.text)
        step = 0 if job.step is None else job.step + 1
        outcome = Outcome(blow.fault, step, blow.strike(self._scene), len(self.logs), time.monotonic())
        self._blows[blow.fault.number] = blow
        self.outcomes.append(outcome)
        if blow.lingers:
            self._lingering.append(outcome)
        else:
            self._active = outcome

    def _look_at_active(self, job: Job) -> None:
        assert self._active
        outcome = self._active
        outcome.output = job.text[self._mark :]
        if self._blows[outcome.fault.number].over(self._scene, outcome):
            self._active = None
            self._complete(outcome)

    def _look_at_lingering(self) -> None:
        for outcome in list(self._lingering):
            if self._blows[outcome.fault.number].over(self._scene, outcome):
                self._lingering.remove(outcome)
                self._complete(outcome)

    def _resumed(self, job: Job) -> None:
        """The faults that ended the job are complete once it is seen to go on."""
        if job.resumed is None or not self._waiting:
            return
        for outcome in self._waiting:
            outcome.resumed, outcome.next_output = job.resumed, job.text
            outcome.restarts = len(self.logs) - outcome.start
            self._complete(outcome)
        self._waiting.clear()

    def _ended(self, job: Job, code: int) -> bool:
        """What a scheduler, and where it is needed a person, does after the job ended; whether it is started again."""
        outcome, self._active, self._armed = self._active, None, None
        if outcome is not None:
            outcome.code, outcome.output, outcome.reached = code, job.text[self._mark :], job.step or 0
            outcome.seconds = time.monotonic() - outcome.struck
            outcome.operator = self._blows[outcome.fault.number].operate(self._scene, outcome)
        left = checks.processes(self._scene.mark, self._scene.config.run.collective_timeout)
        (outcome.problems if outcome is not None else self.problems).extend(left)
        if outcome is not None and code != 0:
            self._waiting.append(outcome)
        elif outcome is not None:
            self._complete(outcome)
        elif code != 0:
            self.problems.append(f"start {len(self.logs)} ended with code {code}, though nothing was done to it; see {job.log}")
        if code == INPUT and (outcome is None or not outcome.operator):
            self.problems.append(f"start {len(self.logs)} asks for a person (code {INPUT}), who had nothing to mend; see {job.log}")
            return False
        return code != 0

    def _complete(self, outcome: Outcome) -> None:
        if not outcome.seconds:
            outcome.seconds = time.monotonic() - outcome.struck
        outcome.problems += self._blows[outcome.fault.number].judge(outcome)
        for path, name in ((self._scene.run.root, "RUN"), (self._scene.config.data.store, "STORE")):
            outcome.seen = outcome.seen.replace(str(path), name)
        self._tell(outcome)

    def _close(self) -> None:
        """The run is over: what still lasts is ended, and what its last message asks for is done."""
        end = time.monotonic() + PATIENCE
        while self._lingering and time.monotonic() < end:
            self._look_at_lingering()
            time.sleep(POLL)
        for outcome in [*self._waiting, *self._lingering]:
            outcome.problems.append("the job did not go on after it")
            self._complete(outcome)
        self.problems += [f"fault {blow.fault.number} ({blow.fault.kind}) found no moment to come" for blow in self._coming]
        asked = SYNC.search(self.logs[-1].read_text(errors="replace"))
        if asked and self._scene.server:
            self._scene.server.wait()
            done = subprocess.run(
                [sys.executable, "-m", "foldline.cli", *shlex.split(asked[1])], capture_output=True, text=True, check=False
            )
            if done.returncode:
                self.problems.append(f"`foldline {asked[1]}` failed: {done.stderr.strip()}")


def blows_of(faults: Sequence[Fault], kinds: dict[str, type[Blow]]) -> list[Blow]:
    """The faults with hands."""
    return [kinds[fault.kind](fault) for fault in faults]
