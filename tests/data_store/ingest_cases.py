"""Running `foldline ingest` as a user does: as a process of its own, to be killed, or on MPI ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from foldline.cluster.launch import mpirun_command
from foldline.data_store.store import Store

COMMAND = (sys.executable, "-m", "foldline.cli", "ingest")
QUIET = {**os.environ, "OMP_NUM_THREADS": "1"}


def run_command(source: Path, store: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    command = [*COMMAND, str(source), "--store", str(store), *flags]
    return subprocess.run(command, capture_output=True, text=True, env=QUIET, check=False, timeout=120)


def run_on_ranks(ranks: int, source: Path, store: Path) -> subprocess.CompletedProcess[str]:
    """Run it with the wheel's mpirun."""
    command = mpirun_command(ranks, [*COMMAND, str(source), "--store", str(store), "--mpi"])
    return subprocess.run(command, capture_output=True, text=True, env=QUIET, check=False, timeout=120)


def start(source: Path, store: Path, *flags: str) -> subprocess.Popen[str]:
    """Start it in a process group of its own."""
    command = [*COMMAND, str(source), "--store", str(store), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=QUIET, start_new_session=True)


def kill_all(job: subprocess.Popen[str]) -> None:
    """SIGKILL to the command and all of its workers, at once."""
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()


def kill_readers_of(entry: str, store: Path, job: subprocess.Popen[str]) -> tuple[int, str]:
    """SIGKILL to every process that says it is reading ``entry``, until the command ends; how many died, and what it printed."""
    partial = store.parent / f".{store.name}.partial"
    killed: set[int] = set()
    while job.poll() is None:
        for marker in partial.glob("*.at"):
            pid, _, name = _text(marker).partition(" ")
            if name == entry and int(pid) not in killed:
                os.kill(int(pid), signal.SIGKILL)
                killed.add(int(pid))
        time.sleep(0.002)
    return len(killed), job.communicate()[0]


def content(store: Path) -> str:
    """The content hash of a store that is whole."""
    opened = Store.open(store)
    assert opened.verify() == []
    return opened.content_hash


def wait_for(folder: Path, pattern: str, count: int, job: subprocess.Popen[str]) -> None:
    """Until ``count`` files of ``folder`` match, or the command has ended."""
    while job.poll() is None and len(list(folder.glob(pattern))) < count:
        time.sleep(0.002)


def names(outcomes: Sequence[object]) -> set[str]:
    """The names of outcomes."""
    return {str(getattr(outcome, "name", "")) for outcome in outcomes}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
