"""Limits of the operating system that end a training late: shared memory, locked memory, open files."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .result import FAILED, OK, WARNING, Result, Told, first_of_hosts, joined

OPEN_FILES, OPEN_FILES_BETTER = 1024, 4096  # below the first loaders with several workers fail
SHM_PER_RANK = 64 << 20  # bytes that NCCL and the loader's pipes may take in /dev/shm per rank of a host
MIB = 1 << 20


def look(local_world: int, cuda: bool) -> dict[str, Any]:
    """What holds for this process; -1 is no limit, and None what this system does not have."""
    shm = Path("/dev/shm")
    return {
        "open_files": _soft(resource.RLIMIT_NOFILE),
        "memlock": _soft(resource.RLIMIT_MEMLOCK),
        "shm_free": shutil.disk_usage(shm).free if shm.is_dir() else None,
        "infiniband": bool(os.listdir("/sys/class/infiniband")) if os.path.isdir("/sys/class/infiniband") else False,
        "shm_needed": SHM_PER_RANK * local_world if cuda else 0,
    }


def judge(told: Sequence[Told]) -> Result:
    """Each host by its first rank."""
    failed: list[str] = []
    warned, remedies, hosts = [], [], []
    for each in first_of_hosts(told):
        facts, files, before = each.facts, each.facts["open_files"], len(failed)
        if 0 <= files < OPEN_FILES:
            failed.append(f"{each.name} may open {files} files, fewer than {OPEN_FILES}")
            remedies.append("raise `ulimit -n` in the job script (LimitNOFILE of slurmd)")
        elif 0 <= files < OPEN_FILES_BETTER:
            warned.append(f"{each.name} may open {files} files; {OPEN_FILES_BETTER} are better with many workers")
        if facts["infiniband"] and facts["memlock"] >= 0:
            failed.append(f"{each.name} may lock {facts['memlock'] // MIB} MiB of memory, InfiniBand registers more")
            remedies.append("set `ulimit -l unlimited` (LimitMEMLOCK of slurmd)")
        free, needed = facts["shm_free"], facts["shm_needed"]
        if needed and (free is None or free < needed):
            failed.append(f"{each.name} has {(free or 0) // MIB} MiB free in /dev/shm, its ranks need {needed // MIB} MiB")
            remedies.append("give the container more shared memory (--shm-size, --ipc=host), or empty /dev/shm")
        hosts += [each.host] * (len(failed) > before)
    figures = {each.host: dict(each.facts) for each in first_of_hosts(told)}
    if failed:
        return Result("limits", FAILED, joined(failed), "; ".join(dict.fromkeys(remedies)), figures, tuple(hosts))
    if warned:
        return Result("limits", WARNING, joined(warned), "raise `ulimit -n` in the job script", figures)
    least = min((each.facts["open_files"] for each in told if each.facts["open_files"] >= 0), default=-1)
    return Result("limits", OK, f"{'any number of' if least < 0 else f'at least {least}'} open files", figures=figures)


def _soft(what: int) -> int:
    value = resource.getrlimit(what)[0]
    return -1 if value == resource.RLIM_INFINITY else value
