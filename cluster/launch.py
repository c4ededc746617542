"""Start the ranks of a job on this machine with the ``mpirun`` of the environment (Open MPI's Python wheel, or the system's)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from ..errors import FoldlineError, missing_package


def mpirun(ranks: int, arguments: Sequence[str]) -> int:
    """Run ``foldline ARGUMENTS`` on ``ranks`` processes and return the job's exit code.

    Raises FoldlineError for fewer than one rank and where no mpirun is found.
    """
    if ranks < 1:
        raise FoldlineError(f"--ranks {ranks} is less than 1; give the number of processes to start")
    command = mpirun_command(ranks, [sys.executable, "-m", "foldline.cli", *arguments])
    job = subprocess.Popen(command)
    while True:
        try:
            return job.wait()
        except KeyboardInterrupt:  # mpirun got the signal too and ends its ranks; wait for it so that no orphan remains
            continue


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
