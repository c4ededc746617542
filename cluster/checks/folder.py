"""The folder that all ranks write checkpoints into: one and the same for all hosts, writable, with room."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .result import FAILED, OK, Result, Told, first_of_hosts, hosts_of, joined

MARK = ".preflight"
PATIENCE = 5.0  # seconds that a network file system may take to show a new file to another host
GIB = 2**30


def leave_mark(folder: Path, text: str) -> str:
    """Rank 0: put a file there for the others to find; why that cannot be, or ""."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).write_text(text)
    except OSError as error:
        return str(error)
    return ""


def look(folder: Path, text: str, rank: int) -> dict[str, Any]:
    """Whether this rank sees rank 0's mark ``text`` in ``folder`` and may write there, and the bytes that are free."""
    end, seen, problem = time.monotonic() + PATIENCE, False, ""
    own = folder / f"{MARK}_{rank:05d}"
    try:
        while not (seen := _read(folder / MARK) == text) and time.monotonic() < end:
            time.sleep(0.1)
        own.write_text(text)
        with own.open("r+") as file:
            os.fsync(file.fileno())
        if own.read_text() != text:
            problem = f"{own} was read back with other contents than were written"
        own.unlink()
    except OSError as error:
        problem = str(error)
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        free, problem = 0, problem or str(error)
    return {"seen": seen, "problem": problem, "free": free, "folder": str(folder.resolve())}


def judge(told: Sequence[Told], mark_problem: str, checkpoint: int, wanted: int, present: int) -> Result:
    """``checkpoint`` bytes of one, ``wanted`` of them at once, of which ``present`` lie there already."""
    hosts = first_of_hosts(told)
    folder = hosts[0].facts["folder"]
    figures: dict[str, Any] = {"checkpoint_bytes": checkpoint, "wanted": wanted, "present": present, "folder": folder}
    closed = [each for each in told if each.facts["problem"]]
    unwritable = [f"{each.name} cannot write to {each.facts['folder']}: {each.facts['problem']}" for each in closed]
    if mark_problem:
        unwritable = [f"{hosts[0].name} cannot write to {folder}: {mark_problem}"]
    if unwritable:
        return Result("checkpoint", FAILED, joined(unwritable), "give a run.dir that every host may write to", figures, hosts_of(closed))
    apart = [each for each in told if not each.facts["seen"]]
    if apart:
        problems = [f"{each.name} does not see what {hosts[0].name} wrote into {each.facts['folder']}" for each in apart]
        return Result("checkpoint", FAILED, joined(problems), "put run.dir on a file system that all hosts share", figures, hosts_of(apart))
    free = min(each.facts["free"] for each in hosts)
    needed = checkpoint * max(0, wanted - present)
    figures |= {"free_bytes": free, "needed_bytes": needed}
    room = f"{wanted} checkpoints of {checkpoint / GIB:.3g} GiB"
    if free < needed:
        found = f"{folder} has {free / GIB:.3g} GiB free; {room}, {present} of them there already, need {needed / GIB:.3g} GiB"
        return Result("checkpoint", FAILED, found, "make room, or lower run.keep_last, run.keep_best, run.keep_every", figures)
    return Result("checkpoint", OK, f"room for {room}: {free / GIB:.3g} GiB free in {folder}", figures=figures)


def clear_marks(folder: Path) -> None:
    """Rank 0: take away what the check left."""
    for path in folder.glob(f"{MARK}*"):
        path.unlink(missing_ok=True)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
