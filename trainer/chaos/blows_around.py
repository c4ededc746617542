"""Faults around the job: the tracking server, the clock."""

from __future__ import annotations

from .blow import Blow, Outcome, Scene
from .plan import Traits

AWAY = 8  # steps that the server is gone for, at most
FOLLOWED = 2  # steps after which a jump of the clock has shown its effect
SHORTEST, SPAN = 600, 432  # seconds of a jump, and how many times longer the longest is: ten minutes to three days


class TrackingKilled(Blow):
    """SIGKILL of the tracking server, which is started again some steps later; other faults may come meanwhile."""

    traits = Traits("tracking killed", ("training",), ends=False)
    lingers = True

    def ready(self, scene: Scene) -> bool:
        return scene.server is not None and scene.server.answers()

    def strike(self, scene: Scene) -> str:
        assert scene.server
        scene.server.kill()
        self._steps = 1 + int(self.fault.amount * AWAY)
        self._from = scene.job.step or 0
        return f"SIGKILL to the server, started again after {self._steps} steps"

    def over(self, scene: Scene, outcome: Outcome) -> bool:
        assert scene.server
        if not scene.server.launched and (scene.job.code == 0 or (scene.job.step or 0) >= self._from + self._steps):
            scene.server.launch()
        return scene.server.launched and scene.server.answers()

    def judge(self, outcome: Outcome) -> list[str]:
        outcome.seen = f"nothing; the server was back after {outcome.seconds:.0f} s"
        return []  # that no value was lost is seen at the end


class ClockJump(Blow):
    """The wall clock is set forward or back."""

    traits = Traits("clock jump", ("training",), ends=False)

    def strike(self, scene: Scene) -> str:
        assert scene.clock
        seconds = int(SHORTEST * SPAN**self.fault.amount) * (1 if self.fault.choice < 0.5 else -1)
        scene.clock.jump(seconds)
        self._from = scene.job.step or 0
        return f"the wall clock {seconds:+d} s"

    def over(self, scene: Scene, outcome: Outcome) -> bool:
        return (scene.job.step or 0) >= self._from + FOLLOWED

    def judge(self, outcome: Outcome) -> list[str]:
        outcome.seen = "nothing; steps went on"
        return [] if outcome.code is None else [f"the job ended with code {outcome.code} over a clock that was set"]
