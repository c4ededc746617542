"""What a checkpoint is on the disk: a folder that is whole or absent, named files and their hashes in a manifest.

``RUN/checkpoints/step_00000100/`` holds one file per rank with its share of weights, EMA and Adam's moments (``checkpoint_state.py``), the
whole model and EMA as safetensors, the resolved config, and ``manifest.json`` with the hash of every file. Nothing else is needed to go
on: the sample order, the recycles and the random numbers of a step are functions of seed, step and place in the order.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, uint8

from ..errors import FoldlineError
from ..model.weights import read_weights, save_weights
from ..whole_file import write_atomic

SCHEMA = 2
MODEL, EMA, CONFIG, MANIFEST = "model.safetensors", "ema.safetensors", "config.json", "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says. The place in the run's sample order is ``samples``."""

    step: int
    samples: int  # consumed by all ranks together, alike in every step
    updates: int  # that Adam made: its bias correction counts them
    skipped: int  # steps that were not finite and moved nothing
    world: int
    zero_stage: int
    store: str  # content hash of the feature store
    mlflow_run: str  # "" where the run is not tracked
    files: dict[str, str]  # path within the checkpoint -> sha256
    schema: int = SCHEMA

    @property
    def batch(self) -> int:
        """Samples of one optimizer step."""
        return self.samples // self.step


class Found(NamedTuple):
    """A checkpoint that can be gone on from."""

    path: Path
    manifest: Manifest


def folder_of(place: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` lies in ``place``."""
    return place / f"step_{step:08d}"


def partial_of(place: Path, step: int) -> Path:
    """Where it is while it is being written."""
    return place / f".partial_{step:08d}"


def committed(place: Path) -> list[int]:
    """Steps with a committed checkpoint in ``place``, oldest first."""
    return sorted(int(path.parent.name.removeprefix("step_")) for path in place.glob(f"step_*/{MANIFEST}"))


def rank_file(rank: int) -> str:
    """The name of a rank's share."""
    return f"rank_{rank:05d}.safetensors"


def read_manifest(path: Path) -> Manifest:
    """The manifest of the checkpoint in the folder ``path``. FoldlineError where it is absent, damaged or of another schema."""
    try:
        data = json.loads((path / MANIFEST).read_text())
        if data["schema"] != SCHEMA:
            raise FoldlineError(f"{MANIFEST} has schema {data['schema']}, this version reads {SCHEMA}")
        return Manifest(**data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FoldlineError(f"{MANIFEST} is not readable: {error}") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Write safetensors, force them to the disk, read them back and compare; the file's sha256.

    FoldlineError where the file cannot be written or holds other bits than were given.
    """
    save_weights(path, tensors, about)
    sync_file(path)
    digest = file_hash(path)
    found, _ = read_weights(path)
    wrong = [name for name, tensor in tensors.items() if name not in found or not _same_bits(tensor, found[name])]
    if wrong or not digest:
        raise FoldlineError(f"{path} was read back with other values than were written ({', '.join(wrong[:3])}); the disk is not reliable")
    return digest


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return bool((one.reshape(-1).view(uint8).numpy() == other.reshape(-1).view(uint8).numpy()).all())


def sync_file(path: Path) -> None:
    """Force a file to the disk and out of the cache, so that what is read next comes from the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def file_hash(path: Path) -> str:
    """The sha256 of a file, "" for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def damage(manifest: Manifest, found: Mapping[str, str]) -> list[str]:
    """One text per file that is gone or has other bytes than were written; ``found`` are the hashes of the files as they are now."""
    return [
        f"{name} {'has other bytes than were written' if found.get(name) else 'is missing or unreadable'}"
        for name, digest in manifest.files.items()
        if found.get(name) != digest
    ]


def commit(place: Path, manifest: Manifest) -> Path:
    """Make the partial checkpoint in ``place``, whose files are all on the disk, the one of its step; returns its folder."""
    partial, final = partial_of(place, manifest.step), folder_of(place, manifest.step)
    write_atomic(partial / MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")
    sync_folder(partial)
    remove(final)
    os.replace(partial, final)
    sync_folder(place)
    return final


def copy_checkpoint(source: Path, place: Path, manifest: Manifest) -> Path:
    """Copy a committed checkpoint to another place, where it is whole or absent too. FoldlineError where the copy differs."""
    partial = partial_of(place, manifest.step)
    sweep(place)
    partial.mkdir(parents=True)
    for name in manifest.files:
        shutil.copyfile(source / name, partial / name)
        sync_file(partial / name)
    problems = damage(manifest, {name: file_hash(partial / name) for name in manifest.files})
    if problems:
        raise FoldlineError(f"{partial}: {'; '.join(problems)}")
    return commit(place, manifest)


def sweep(place: Path) -> None:
    """Delete what a start that was cut short left unfinished."""
    for abandoned in place.glob(".partial_*"):
        shutil.rmtree(abandoned, ignore_errors=True)


def superfluous(steps: Sequence[int], newest: int, keep_last: int, keep_every: int, best: Collection[int]) -> list[int]:
    """Which of the rising ``steps`` to delete once ``newest`` is committed: neither among the last, nor a multiple, nor one of the best.

    Steps beyond ``newest`` are of a start that ended otherwise, and go: they would be taken for the newest.
    """
    before = [step for step in steps if step <= newest]
    kept = {*before[-keep_last:], *best} | {step for step in before if keep_every and step % keep_every == 0}
    return [step for step in steps if step > newest or step not in kept]


def remove(path: Path) -> None:
    """Delete a checkpoint, its manifest first: a deletion cut short leaves nothing that looks like a checkpoint."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def publish(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, at once; a hard link where the file system has them."""
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    os.replace(partial, target)


def sync_folder(path: Path) -> None:
    """Force the names in a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
