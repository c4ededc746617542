"""``foldline submit``: the job's folder and text (--dry-run: the text alone), the scheduler's own command, and a note of the id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from ...errors import FoldlineError
from .records import Record, prepare, remember
from .schedulers import SUBMIT
from .shards import divide_table
from .spec import JobSpec, resolve
from .text import file_name, job_text, work_of


def submit_command(flags: Mapping[str, Any], defaults: Path | None, dry_run: bool, command: Sequence[str]) -> int:
    """Submit ``command`` as a job, print its id; 0. With ``dry_run`` print what would be submitted and touch nothing."""
    spec, cwd = resolve(flags, defaults, command), Path.cwd()
    folder = _folder((cwd / spec.folder).absolute(), f"{spec.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}", make=not dry_run)
    texts = job_texts(spec, command, cwd, folder)
    if dry_run:
        print("\n".join(f"# {folder / name}\n{text}" for name, text in texts.items()), end="")
        return 0
    prepare()  # a job whose id cannot be noted must not be submitted
    if MERGE in texts:
        divide_table(command, spec.array, cwd)
    for name, text in texts.items():
        (folder / name).write_text(text)
    ids = [SUBMIT[spec.scheduler](spec, folder / file_name(spec), "", False)]
    for _ in range(spec.chain - 1):
        ids.append(SUBMIT[spec.scheduler](spec, folder / file_name(spec), ids[-1], False))
    if MERGE in texts:
        ids.append(SUBMIT[spec.scheduler](_alone(spec), folder / MERGE, ids[-1], True))
    submitted = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    remember(Record(tuple(ids), spec.scheduler, spec.name, str(folder), tuple(command), submitted, spec.array, spec.kind, spec.namespace))
    for number in ids:
        print(number)
    print(f"follow it with: foldline jobs {ids[0]} --follow   (script, notes and logs: {folder})")
    return 0


MERGE = "merge.sh"  # joins the stores that an ingest's tasks have made


def job_texts(spec: JobSpec, command: Sequence[str], cwd: Path, folder: Path) -> dict[str, str]:
    """File name -> text, of everything that is submitted, in order. Reads a training's config, writes nothing."""
    work = work_of(spec, command, cwd, folder)
    texts = {file_name(spec): job_text(spec, work)}
    if work.merge and spec.scheduler != "kubernetes":  # whose last pod does it
        texts[MERGE] = job_text(_alone(spec), work_of(_alone(spec), work.merge, cwd, folder))
    return texts


def _folder(parent: Path, name: str, make: bool) -> Path:
    """``name`` below ``parent``, with a number where another job of this second has it."""
    for number in count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        if not make and not folder.exists():
            return folder
        if make:
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                continue
            except OSError as error:
                raise FoldlineError(f"--folder: {folder} cannot be made: {error}; give one that all hosts may write to") from None
    raise AssertionError("there is always a free number")


def _alone(spec: JobSpec) -> JobSpec:
    """The job that follows an array: one task."""
    return replace(spec, array=0, name=f"{spec.name[:46]}-merge")
