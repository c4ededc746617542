"""Start the ranks of a job on this machine with the ``mpirun`` of the environment (Open MPI's Python wheel, or the system's)."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import FoldlineError, missing_package

# To this process, that is; the ranks get SIGUSR1, which mpirun passes on, while SIGTERM would make it kill them before they have saved.
FORWARDED = (signal.SIGTERM, signal.SIGUSR1)
PR_SET_PDEATHSIG = 1  # of prctl(2)


def mpirun(ranks: int, arguments: Sequence[str]) -> int:
    """Run ``foldline ARGUMENTS`` on ``ranks`` processes and return the job's exit code.

    Raises FoldlineError for fewer than one rank and where no mpirun is found.
    """
    if ranks < 1:
        raise FoldlineError(f"--ranks {ranks} is less than 1; give the number of processes to start")
    command = mpirun_command(ranks, [sys.executable, "-m", "foldline.cli", *arguments])
    job = subprocess.Popen(command, preexec_fn=die_with_parent() if sys.platform == "linux" else None)
    before = {number: signal.signal(number, lambda *_: job.send_signal(signal.SIGUSR1)) for number in FORWARDED}
    try:
        while True:
            try:
                return job.wait()
            except KeyboardInterrupt:  # mpirun got the signal too and ends its ranks; wait for it so that no orphan remains
                continue
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        clear_session(job.pid)


def clear_session(process: int) -> None:
    """Delete what an mpirun that was killed has left among the temporary files, megabytes each time; one that ended has done so itself."""
    shutil.rmtree(Path(tempfile.gettempdir()) / f"ompi.{process}", ignore_errors=True)


def die_with_parent() -> Callable[[], None]:
    """What the child does before it becomes mpirun: ask the kernel for a SIGTERM should this process be killed."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # loaded here: between fork and exec nothing may be imported
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def mpirun_command(ranks: int, program: Sequence[str]) -> list[str]:
    """The mpirun command line for ``program`` on this host; more ranks than cores are allowed, binding is left to the ranks."""
    flags = ["--oversubscribe", "--bind-to", "none"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--allow-run-as-root")  # containers run as root; Open MPI refuses that unless told
    return [str(find_mpirun()), "-n", str(ranks), *flags, *program]


def find_mpirun() -> Path:
    """mpirun beside this Python (the wheel's), otherwise on PATH. Raises FoldlineError with how to get one."""
    beside = Path(sysconfig.get_path("scripts")) / "mpirun"
    if beside.exists():
        return beside
    found = shutil.which("mpirun")
    if found is None:
        raise missing_package("openmpi", "train", "--launcher mpi")
    return Path(found)
