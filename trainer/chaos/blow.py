"""What every kind of fault answers: how it is done, when it is over, what a person must do, whether it was borne as promised."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ..checkpoint import committed, folder_of
from ..config import RunConfig
from ..rundir import RunDir
from .clock import Clock
from .disk import SmallDisk
from .job import Job
from .plan import Fault, Traits
from .server import Server


@dataclass
class Pace:
    """Seconds, as the undisturbed run took them: from the start to the first step's end, a step, the writing of a checkpoint."""

    starting: float = 0.0
    training: float = 0.0
    saving: float = 0.0

    def of(self, phase: str) -> float:
        """Of a phase of ``plan.PHASES``."""
        return {"starting": self.starting, "training": self.training, "saving": self.saving}[phase]


@dataclass
class Scene:
    """What faults act upon."""

    config: RunConfig  # of the disturbed run
    run: RunDir
    store_copy: Path  # the user's store, which is never touched
    pace: Pace
    mark: str
    disk: SmallDisk | None = None
    server: Server | None = None
    clock: Clock | None = None
    job: Job = field(init=False)
    truncated: set[int] = field(default_factory=set)  # inodes of the manifests of checkpoints that were damaged

    def whole(self) -> list[Path]:
        """Checkpoints that were committed and not damaged by a fault, oldest first."""
        folders = [folder_of(self.run.checkpoints, step) for step in committed(self.run.checkpoints)]
        return [folder for folder in folders if (folder / "manifest.json").stat().st_ino not in self.truncated]


@dataclass
class Outcome:
    """One fault and what came of it."""

    fault: Fault
    step: int  # under way when it struck
    done: str  # what was done
    start: int  # number of the job's start that it struck
    struck: float  # by the monotonic clock
    seconds: float = 0.0  # from the blow to the end of the job, or of the fault
    code: int | None = None  # of the job, where it ended by this
    seen: str = ""  # the line that tells the user
    output: str = ""  # of the start that was struck, from the blow on
    next_output: str = ""  # of the start that went on
    reached: int = 0  # the last step that was done before the job ended
    resumed: int | None = None
    restarts: int = 0
    operator: str = ""  # what had to be done by hand before the job could go on
    problems: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Steps that were computed again."""
        return 0 if self.resumed is None else max(0, self.reached - self.resumed)


class Blow:
    """A kind of fault; one object per planned fault. Subclasses say what differs."""

    traits: ClassVar[Traits]
    lingers: ClassVar[bool] = False  # other faults may come while it lasts

    def __init__(self, fault: Fault) -> None:
        self.fault = fault

    def ready(self, scene: Scene) -> bool:
        """Whether it makes sense now. There must be something to go on from, but for a kind that may come early."""
        return self.traits.early or bool(scene.whole())

    def strike(self, scene: Scene) -> str:
        """Do it; returns what was done."""
        raise NotImplementedError

    def over(self, scene: Scene, outcome: Outcome) -> bool:
        """While the job goes on: whether this fault has had its effect, or was taken back."""
        return False

    def operate(self, scene: Scene, outcome: Outcome) -> str:
        """After the job ended: what a person who reads its last message does, done; "" where the scheduler needs no help."""
        return ""

    def judge(self, outcome: Outcome) -> list[str]:
        """What was not as docs/operations.md promises; ``outcome`` is complete."""
        raise NotImplementedError


def telling(output: str, *words: str) -> str:
    """The first message of ``output`` that holds all ``words``; "" where there is none. mpirun breaks its own over several lines."""
    messages = [re.sub(r"\s+", " ", text) for text in re.split(r"\n(?!signal )|-{20,}", output)]
    return next((text.strip().removeprefix("foldline: ") for text in messages if all(word in text for word in words)), "")


def pick(choice: float, count: int) -> int:
    """0..count-1 by a number in [0, 1)."""
    return int(choice * count)
