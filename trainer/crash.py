"""What a run leaves behind when it ends abnormally: ``RUN/crash/TIME_rank_N/``, with a file of every rank that still lives.

The first rank that meets an error makes the folder and asks the others by a file, which a thread of each rank looks at; they add their
stacks and what they were working on. A rank whose interpreter does not come to it is asked by SIGUSR2, which needs no interpreter.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psutil

from ..cluster.ranks import RankInfo
from ..data_store.sampler import Cursor, SampleOrder
from ..errors import FoldlineError
from .config import RunConfig, passes_per_step, samples_per_step, to_json
from .incident import IncidentFolder, ask, asked, forget
from .rundir import RunDir

PATIENCE = 5.0  # seconds that living ranks get to answer
LOOK, LOOKS_PER_SECOND = 1.0, 100.0  # at least so many seconds between looks for a question; of all ranks together at most so many looks
SIGNALLED = 0.5  # seconds in which a signal writes stacks


class Crash:
    """A context manager around a run, to be entered before what may fail. ``at`` says which step this rank is in."""

    def __init__(self, run: RunDir, config: RunConfig, mine: RankInfo) -> None:
        self._run, self._config, self._mine = run, config, mine
        self._order: SampleOrder | None = None
        self._step = 0
        self._folder: Path | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._answer, name="crash", daemon=True)
        self._files: list[IO[str]] = []
        self._stale: Path | None = None  # what an earlier start of the run asked for
        self._was_enabled = faulthandler.is_enabled()

    def follow(self, config: RunConfig, order: SampleOrder) -> None:
        """The run's samples as they are shared out among the ranks now."""
        self._config, self._order = config, order

    def at(self, step: int) -> None:
        """This rank begins ``step``. Cheap."""
        self._step = step

    def capture(self, message: str, error: BaseException | None = None) -> str:
        """Make the bundle, or add to the one that another rank has made; ``message`` with where it lies. Never raises."""
        with self._lock:
            try:
                if self._folder is None:
                    self._folder = self._make(message, error)
            except Exception as trouble:  # the error that is being told must not be hidden by one of telling it
                if "no crash bundle:" in message:
                    return message  # told at the first attempt
                return f"{message}; no crash bundle: {type(trouble).__name__}: {trouble}"
        return message if str(self._folder) in message else f"{message}; crash bundle: {self._folder}"

    def seen(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """For ``ExitStack.push``: capture an error at once, before what cleans up waits for other ranks."""
        if not isinstance(error, Exception) or (self._step == 0 and isinstance(error, FoldlineError)):
            return  # asked for, or an input that cannot train: its message says all
        told = self.capture(str(error) or type(error).__name__, error)
        if isinstance(error, FoldlineError):
            error.args = (told, *error.args[1:])
        elif self._folder is not None and str(self._folder) not in "".join(getattr(error, "__notes__", [])):
            error.add_note(f"crash bundle: {self._folder}")

    def __enter__(self) -> Self:
        try:
            self._prepare()
        except OSError as error:  # a full disk at a restart: the run may still make room or go on without
            print(f"foldline: rank {self._mine.rank} on {self._mine.host} leaves no crash bundle: {error}", file=sys.stderr)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.seen(kind, error, trace)
        self._over.set()
        self._thread.join()
        with suppress(OSError):
            _process_file(self._run, self._mine.rank).unlink(missing_ok=True)  # no signal any more, which would now end the process
        faulthandler.unregister(signal.SIGUSR2)
        if self._was_enabled and sys.__stderr__ is not None:
            faulthandler.enable(sys.__stderr__)
        else:
            faulthandler.disable()
        for file in self._files:
            file.close()
            with suppress(OSError):
                if not Path(file.name).stat().st_size:
                    Path(file.name).unlink()

    def _prepare(self) -> None:
        self._run.ranks.mkdir(parents=True, exist_ok=True)
        self._stale = asked(self._run)
        if self._mine.rank == 0:
            forget(self._run)
        fatal, stacks = (self._open(name) for name in ("fatal", "stacks"))
        faulthandler.enable(fatal)
        faulthandler.register(signal.SIGUSR2, file=stacks, all_threads=True)
        about = {"host": self._mine.host, "pid": os.getpid(), "born": psutil.Process().create_time()}
        _process_file(self._run, self._mine.rank).write_text(json.dumps(about))

    def _open(self, kind: str) -> IO[str]:
        """A file that the C library writes to; what an earlier start left in it is kept beside."""
        path = rank_text(self._run.ranks, self._mine.rank, kind)
        if path.exists() and path.stat().st_size:
            path.rename(path.with_suffix(f".{int(path.stat().st_mtime)}.txt"))
        file = path.open("w")
        self._files.append(file)
        return file

    def _make(self, message: str, error: BaseException | None) -> Path:
        incident = IncidentFolder.open(self._run, f"rank_{self._mine.rank}")
        self._write_own(incident.folder, message, error)
        if incident.mine:
            incident.write_about(to_json(self._config))
            ask(self._run, incident.folder)
            self._await_others(incident.folder)
            incident.write_ranks()
        return incident.folder

    def _answer(self) -> None:
        """The thread: whoever asks gets this rank's stacks."""
        every = max(LOOK, self._mine.world / LOOKS_PER_SECOND)
        while not self._over.wait(every):
            folder = asked(self._run)
            if folder is None or folder == self._stale or self._folder is not None or rank_text(folder, self._mine.rank).exists():
                continue
            try:
                self._write_own(folder, "", None)
            except OSError:
                continue  # the one who asked goes on without

    def _write_own(self, folder: Path, message: str, error: BaseException | None) -> None:
        """This rank's file: error, place, samples, the stacks of all its threads."""
        with rank_text(folder, self._mine.rank).open("w") as file:
            print(f"rank {self._mine.rank} on {self._mine.host}, process {os.getpid()}, step {self._step}", file=file)
            print(f"\n{message or 'asked by another rank'}", file=file)
            for sample in self._samples():
                print(f"sample of the step: {json.dumps(sample)}", file=file)
            if error is not None:
                print("\n" + "".join(traceback.format_exception(error)), file=file)
            print("\nstacks of all threads, the innermost call first:", file=file, flush=True)
            faulthandler.dump_traceback(file, all_threads=True)

    def _samples(self) -> list[dict[str, Any]]:
        if self._order is None or self._step == 0:
            return []
        return samples_of(self._config, self._order, self._mine.rank, self._mine.world, self._step)

    def _await_others(self, folder: Path) -> None:
        missing = [rank for rank in range(self._mine.world) if rank != self._mine.rank]
        end = time.monotonic() + PATIENCE
        while missing and time.monotonic() < end:
            time.sleep(0.05)
            missing = [rank for rank in missing if not rank_text(folder, rank).exists()]
        signalled = [rank for rank in missing if self._signal(rank)]
        if signalled:
            time.sleep(SIGNALLED)
        for rank in signalled:
            shutil.copyfile(rank_text(self._run.ranks, rank, "stacks"), rank_text(folder, rank))

    def _signal(self, rank: int) -> bool:
        """Ask a rank of this host that does not answer; False where it is not one, or not there any more."""
        try:
            about = json.loads(_process_file(self._run, rank).read_text())
            if about["host"] != self._mine.host or abs(psutil.Process(about["pid"]).create_time() - about["born"]) > 0.01:
                return False
            os.kill(about["pid"], signal.SIGUSR2)
            return True
        except (OSError, ValueError, KeyError, TypeError, psutil.Error):
            return False


def samples_of(config: RunConfig, order: SampleOrder, rank: int, world: int, step: int) -> list[dict[str, Any]]:
    """Position, chain, seed and number of passes of every sample of ``rank`` in optimizer step ``step``: they follow from these numbers."""
    passes = passes_per_step(config, world)
    cursor = Cursor((step - 1) * samples_per_step(config, world), (step - 1) * passes)
    tasks = order.share(cursor, rank, world, config.run.micro_batch, passes)
    return [task._asdict() for task in islice(tasks, passes * config.run.micro_batch)]


def rank_text(folder: Path, rank: int, kind: str = "rank") -> Path:
    """A rank's file in a bundle, or (``kind`` "stacks", "fatal") in RUN/ranks."""
    return folder / f"{kind}_{rank:05d}.txt"


def _process_file(run: RunDir, rank: int) -> Path:
    return run.ranks / f"process_{rank:05d}.json"


def bundle_from_outside(run: RunDir, since: float, reason: str) -> Path | None:
    """The launcher's: the bundle that a rank has made after ``since`` (seconds since the epoch), else a new one of what lies in RUN.

    None where the ranks had not begun.
    """
    if not run.ranks.exists():
        return None
    made = [folder for folder in sorted(run.crash.glob("*_rank_*")) if folder.stat().st_mtime >= since]
    if made:
        return made[-1]
    forget(run)
    incident = IncidentFolder.open(run, "launcher")
    (incident.folder / "launcher.txt").write_text(f"{reason}\nseen by the launcher on {socket.gethostname()}\n")
    incident.write_about(run.config.read_text() if run.config.exists() else "")
    incident.write_ranks()
    return incident.folder
