"""`foldline chaos`: the same training twice, undisturbed and under faults, and what must hold afterwards."""

from __future__ import annotations

import importlib.util
import json
import secrets
import shutil
import signal
import statistics
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ...data_store.store import Store
from ...errors import FoldlineError
from ...settings import nearest
from ..config import RunConfig, load_config
from ..journal import read_journal
from ..rundir import RunDir, check_start
from . import checks
from .blow import Blow, Pace, Scene
from .blows_around import ClockJump, TrackingKilled
from .blows_disk import CheckpointTruncated, DiskFull, StoreFlipped
from .blows_process import AllKilled, RankKilled, RankStopped, StopSignal
from .clock import Clock, absent
from .disk import SmallDisk, become_mounter
from .driver import Driver, blows_of
from .job import Job, bearers, send
from .plan import draw, window
from .report import Check, Report, write_report
from .server import Server

KINDS: dict[str, type[Blow]] = {
    kind.traits.name: kind
    for kind in (RankKilled, AllKilled, RankStopped, StopSignal, DiskFull, CheckpointTruncated, StoreFlipped, TrackingKilled, ClockJump)
}
LARGEST_STORE = 2 << 30  # bytes; it is copied
PROBE = 1 << 20  # bytes of the file system that shows whether one can be mounted
ROOM = 4  # the small disk, in undisturbed run directories


def chaos_command(
    config_path: Path, overrides: Sequence[str], faults: int, seed: int | None, ranks: int, out: Path | None, only: Sequence[str]
) -> int:
    """0 when everything holds, 1 when something does not; every problem is named."""
    seed = secrets.randbelow(1 << 31) if seed is None else seed
    config = load_config(config_path, overrides)
    out = out or Path(config.run.dir) / f"seed_{seed}"
    check_input(config, faults, ranks, out, only)
    if not only or DiskFull.traits.name in only:
        words = [
            "chaos",
            "--config",
            str(config_path),
            "--faults",
            str(faults),
            "--seed",
            str(seed),
            "--ranks",
            str(ranks),
            "--out",
            str(out),
        ]
        become_mounter([*words, *(f"--set={override}" for override in overrides), *(f"--only={kind}" for kind in only)])
    suite = Suite(config, config_path.resolve(), tuple(overrides), ranks, out.resolve(), seed)
    with ExitStack() as held:
        before = signal.signal(signal.SIGTERM, _leave)
        held.callback(signal.signal, signal.SIGTERM, before)
        held.callback(suite.clear)
        return suite.run(faults, only)


def check_input(config: RunConfig, faults: int, ranks: int, out: Path, only: Sequence[str]) -> None:
    """Raise FoldlineError unless the faults fit into the run, and its bits can be compared."""
    first, last = window(config)
    if faults < 1:
        raise FoldlineError(f"--faults {faults} is below 1")
    if ranks < 2:
        raise FoldlineError(f"--ranks {ranks}: a rank that hangs is seen by the others; give at least 2")
    if last < first:
        raise FoldlineError(
            f"run.steps = {config.run.steps} leaves no step between the first checkpoint and the last two "
            f"(run.checkpoint_every = {config.run.checkpoint_every}); give at least {3 * config.run.checkpoint_every + 2} steps"
        )
    if not config.run.threads:
        raise FoldlineError("run.threads = 0 leaves the sums' order to the machine, so bits cannot be compared; give a number")
    if config.run.device != "cpu" and not config.run.deterministic:
        raise FoldlineError(
            f'run.device = "{config.run.device}" gives the same bits twice with run.deterministic = true only; set it, or device = "cpu"'
        )
    for kind in only:
        if kind not in KINDS:
            raise FoldlineError(f"--only {kind!r} is no kind of fault; {nearest(kind, KINDS)}")
    if out.exists():
        raise FoldlineError(f"{out} is there already; give another --out or --seed, or delete it")


class Suite:
    """Both runs below one folder: ``undisturbed``, ``disturbed/run`` (on a small file system), ``store``, ``mlflow``, ``starts``."""

    def __init__(self, config: RunConfig, path: Path, overrides: tuple[str, ...], ranks: int, out: Path, seed: int) -> None:
        self._config, self._path, self._overrides, self._ranks, self._out, self._seed = config, path, overrides, ranks, out, seed
        self._report = Report()
        self._mark = uuid.uuid4().hex
        self._undisturbed, self._disturbed = RunDir(out / "undisturbed"), RunDir(out / "disturbed" / "run")
        self._store = out / "store"
        self._disk = SmallDisk(out / "disturbed")
        self._server: Server | None = None
        self._mounted = False

    def run(self, faults: int, only: Sequence[str]) -> int:
        """Everything, in order."""
        begin = time.monotonic()
        check_start(self._config, resume=False)
        self._out.mkdir(parents=True)
        left_out = self._possible()
        kinds = [kind for name, kind in KINDS.items() if name not in left_out and (not only or name in only)]
        if not kinds:
            raise FoldlineError(f"none of the faults can be had here: {left_out}")
        self._report.say(f"{faults} faults of {len(kinds)} kinds, --seed {self._seed}, in {self._out}")
        for name, why in left_out.items():
            self._report.say(f"left out: {name}: {why}")
        pace = self._run_undisturbed()
        scene = self._set_up(kinds, pace)
        plan = draw(self._seed, faults, [kind.traits for kind in kinds], window(self._config))
        driver = Driver(scene, blows_of(plan, KINDS), lambda number, resume: self._start(scene, number, resume), self._report.row)
        driver.run()
        found = self._check(driver, scene)
        good = not driver.problems and not any(o.problems for o in driver.outcomes) and not any(c.problems for c in found)
        for problem in driver.problems:
            self._report.say(f"FAILED  {problem}")
        about = {"seed": self._seed, "config": str(self._path), "overrides": self._overrides, "ranks": self._ranks, "left_out": left_out}
        about |= {"codes": driver.codes, "seconds": round(time.monotonic() - begin, 1), "holds": good, "pace": vars(pace)}
        write_report(self._out / "chaos.json", about, driver.outcomes, found, driver.problems)
        self._report.say(self._summary(driver, good, time.monotonic() - begin))
        return 0 if good else 1

    def clear(self) -> None:
        """Leave nothing running and nothing mounted."""
        for pid in bearers(self._mark):
            send(pid, signal.SIGKILL)
        if self._server:
            self._server.kill()
        if self._mounted:
            self._disk.unmount()

    def _possible(self) -> dict[str, str]:
        """The kinds of faults that cannot be had here, and why."""
        store, tracking = Path(self._config.data.store), self._config.tracking
        why = {ClockJump: absent(), DiskFull: self._disk.mount(PROBE)}
        if not why[DiskFull]:
            self._disk.drop()
        if self._config.run.keep_last < 2:
            why[CheckpointTruncated] = "run.keep_last = 1 keeps none to go back to"
        if not store.is_dir():
            why[StoreFlipped] = f"data.store = {str(store)!r} is no folder"
        elif sum(path.stat().st_size for path in store.rglob("*")) > LARGEST_STORE:
            why[StoreFlipped] = f"data.store is larger than {LARGEST_STORE >> 30} GiB, and it is copied first"
        if not tracking.mlflow or tracking.offline:
            why[TrackingKilled] = "the config does not track (tracking.mlflow, tracking.offline)"
        elif importlib.util.find_spec("mlflow") is None:
            why[TrackingKilled] = "mlflow is not installed"
        return {kind.traits.name: reason for kind, reason in why.items() if reason}

    def _run_undisturbed(self) -> Pace:
        """The training without faults; how fast it goes."""
        pace, saving = Pace(), list[float]()
        job = self._job(self._undisturbed, self._config.data.store, {"tracking.mlflow": False}, {}, "undisturbed", False)
        since = 0.0
        while job.code is None:
            job.look()
            if job.saving and not since:
                since = time.monotonic()
            elif since and not job.saving:
                saving.append(time.monotonic() - since)
                since = 0.0
            time.sleep(0.01)
        if job.code:
            raise FoldlineError(f"the undisturbed run ended with code {job.code}; see {job.log}")
        took = [record.metrics["time/step"] for record in read_journal(self._undisturbed.journal) if record.kind == "train"]
        pace.starting, pace.training = job.first_step_after or 0.0, statistics.median(took)
        pace.saving = statistics.median(saving) if saving else 0.0
        self._report.say(
            f"undisturbed: {self._config.run.steps} steps, {job.seconds:.0f} s; the first step after {pace.starting:.0f} s, "
            f"then {pace.training:.2f} s each; a checkpoint takes {pace.saving:.2f} s"
        )
        return pace

    def _set_up(self, kinds: Sequence[type[Blow]], pace: Pace) -> Scene:
        """What the faults act upon."""
        if DiskFull in kinds:
            size = ROOM * sum(path.stat().st_size for path in self._undisturbed.root.rglob("*") if path.is_file())
            if trouble := self._disk.mount(size):
                raise FoldlineError(trouble)
            self._mounted = True
        config = self._config
        if StoreFlipped in kinds:
            shutil.copytree(config.data.store, self._store)
            config = load_config(self._path, [*self._overrides, f"data.store={json.dumps(str(self._store))}"])
        if TrackingKilled in kinds:
            self._server = Server(self._out / "mlflow")
            self._server.launch()
            self._server.wait()
        clock = Clock(self._out / "clock") if ClockJump in kinds else None
        disk = self._disk if self._mounted else None
        return Scene(config, self._disturbed, Path(self._config.data.store), pace, self._mark, disk, self._server, clock)

    def _start(self, scene: Scene, number: int, resume: bool) -> Job:
        tracking: dict[str, object] = {"tracking.mlflow": False}
        if self._server:
            tracking = {"tracking.uri": self._server.uri, "tracking.parent": "", "tracking.register": ""}
        clock = scene.clock.environment if scene.clock else {}
        return self._job(self._disturbed, scene.config.data.store, tracking, clock, f"start_{number:02d}", resume)

    def _job(self, run: RunDir, store: str, more: dict[str, object], environment: dict[str, str], name: str, resume: bool) -> Job:
        settings = {"run.dir": str(run.root), "data.store": store, "run.checkpoint_mirror": "", **more}
        arguments = ["train", "--config", str(self._path), "--launcher", "mpi", "--ranks", str(self._ranks)]
        arguments += [f"--set={o}" for o in (*self._overrides, *(f"{key}={json.dumps(value)}" for key, value in settings.items()))]
        log = self._out / "starts" / f"{name}.log"
        return Job([*arguments, *(["--resume"] if resume else [])], log, run, self._mark, environment)

    def _check(self, driver: Driver, scene: Scene) -> list[Check]:
        """Everything that must hold at the end."""
        one, other, steps = self._undisturbed, self._disturbed, self._config.run.steps
        found = [
            Check("weights, EMA and Adam's moments are those of the undisturbed run", checks.weights(one, other, steps, self._ranks)),
            Check("the journal has every step once, with the undisturbed run's numbers", checks.journal(one, other, steps)),
            Check("no process of the job is left", checks.processes(self._mark, 0.0)),
            Check("nothing unfinished is left in the run directory", checks.litter(other)),
            Check("no message was a traceback", checks.messages(driver.logs)),
            Check("the store is as it was committed", Store.open(scene.config.data.store).verify()),
        ]
        if self._server:
            found.insert(2, Check("MLflow holds every point of the journals, and no other", checks.tracked(other, self._server.uri)))
        for check in found:
            self._report.check(check)
        return found

    def _summary(self, driver: Driver, good: bool, seconds: float) -> str:
        lost = sum(outcome.lost for outcome in driver.outcomes)
        return (
            f"{'everything holds' if good else 'NOT everything holds'}: {len(driver.outcomes)} faults, {len(driver.codes)} starts, "
            f"{lost} steps computed again, {seconds:.0f} s; {self._out / 'chaos.json'}; the same again: --seed {self._seed}"
        )


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, _leaves_already)
    raise SystemExit(128 + number)


def _leaves_already(number: int, frame: FrameType | None) -> None:
    """A second signal must not cut the clearing short. Not SIG_IGN, which programs started from here would inherit."""
