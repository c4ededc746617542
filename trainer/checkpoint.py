"""Checkpoints that are whole or absent: written aside by all ranks, hashed, named in a manifest, renamed into place.

``RUN/checkpoints/step_00000100/`` holds DeepSpeed's state, one file per rank with its share of the EMA, the whole model and EMA as
safetensors, the resolved config, and ``manifest.json`` with the hash of every file. Nothing else is needed to go on: the sample order, the
recycles and the random numbers of a step are functions of seed, step and rank.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import FoldlineError
from ..model.weights import save_weights
from .ema import Ema
from .partitions import gather, master_partitions
from .rundir import RunDir, write_atomic

SCHEMA = 1
STATE = "deepspeed"  # folder of DeepSpeed's files within a checkpoint
MODULE_PREFIX = "model."  # the network's name within the training step


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says. The place in the sample order is ``step``: the order is a function of seed and step."""

    step: int
    samples: int
    world: int
    zero_stage: int
    store: str  # content hash of the feature store
    mlflow_run: str  # "" where the run is not tracked
    files: dict[str, str]  # path within the checkpoint -> sha256
    schema: int = SCHEMA


@dataclass(frozen=True)
class Checkpoints:
    """Saving and finding the checkpoints of one run. Every method but ``steps`` is collective: all ranks call it."""

    run: RunDir
    zero_stage: int
    keep_last: int
    store: str
    publish_best: bool = True  # False where a side job says which is the best and keeps ``weights/best.safetensors``

    def save(self, engine: Any, ema: Ema, step: int, samples: int, mlflow_run: str, best: Sequence[int] = ()) -> Path:
        """Write the state after ``step`` steps; returns the checkpoint's directory. The steps ``best`` are kept beyond ``keep_last``."""
        final = self.run.checkpoints / f"step_{step:08d}"
        partial = self.run.checkpoints / f".partial_{step:08d}"
        rank = dist.get_rank()
        if rank == 0:
            for abandoned in self.run.checkpoints.glob(".partial_*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            partial.mkdir(parents=True)
        dist.barrier()
        engine.save_checkpoint(str(partial), tag=STATE, save_latest=False)
        _save_rank(partial / f"rank_{rank:05d}.safetensors", ema)
        averaged = self.weights(engine, ema.averages)
        plain = self.weights(engine, master_partitions(engine, self.zero_stage))
        if rank == 0:
            about = {"step": str(step), "samples": str(samples)}
            save_weights(partial / "model.safetensors", plain, about | {"weights": "model"})
            save_weights(partial / "ema.safetensors", averaged, about | {"weights": "ema"})
            shutil.copyfile(self.run.config, partial / "config.json")
        dist.barrier()
        files = _hash_shared(partial, _files(partial), sync=True)
        if rank == 0:
            manifest = Manifest(step, samples, dist.get_world_size(), self.zero_stage, self.store, mlflow_run, files)
            write_atomic(partial / "manifest.json", json.dumps(asdict(manifest), indent=2) + "\n")
            _remove(final)
            os.replace(partial, final)
            _sync_directory(self.run.checkpoints)
            publish(final / "ema.safetensors", self.run.weights)
            if best and self.publish_best:
                publish(self._path(best[0]) / "ema.safetensors", self.run.best)
            for old in self.steps()[: -self.keep_last]:
                if old not in best:
                    _remove(self._path(old))
        dist.barrier()
        return final

    def weights(self, engine: Any, partitions: Sequence[Tensor]) -> dict[str, Tensor]:
        """The network's whole state dict from values laid out like the optimizer's fp32 partitions."""
        named = gather(engine, self.zero_stage, partitions) | dict(engine.module.named_buffers())
        return {name.removeprefix(MODULE_PREFIX): value for name, value in named.items() if name.startswith(MODULE_PREFIX)}

    def steps(self) -> list[int]:
        """Steps with a committed checkpoint, oldest first."""
        return sorted(int(path.parent.name.removeprefix("step_")) for path in self.run.checkpoints.glob("step_*/manifest.json"))

    def newest(self, tell: Callable[[str], None]) -> tuple[Path, Manifest]:
        """The newest checkpoint whose files all have their hashes; ``tell`` gets one message for each that does not.

        Raises FoldlineError where none is whole, and where ranks, ZeRO stage or store are not the ones that wrote it.
        """
        for step in reversed(self.steps()):
            path = self._path(step)
            try:
                manifest = read_manifest(path)
                problems = _damage(path, manifest)
            except FoldlineError as error:
                problems = [str(error)]
            else:
                if not problems:
                    self._check_fits(manifest)
                    return path, manifest
            tell(f"checkpoint {path} is damaged ({'; '.join(problems)}); trying the one before it")
        raise FoldlineError(f"no checkpoint in {self.run.checkpoints} is whole; start again in another run.dir")

    def load(self, engine: Any, ema: Ema, path: Path) -> None:
        """Put the state of a verified checkpoint into engine and EMA."""
        engine.load_checkpoint(str(path), tag=STATE)
        _load_rank(path / f"rank_{dist.get_rank():05d}.safetensors", ema)

    def _path(self, step: int) -> Path:
        return self.run.checkpoints / f"step_{step:08d}"

    def _check_fits(self, manifest: Manifest) -> None:
        world = dist.get_world_size()
        if (manifest.world, manifest.zero_stage) != (world, self.zero_stage):
            raise FoldlineError(
                f"--resume: the checkpoint was written by {manifest.world} ranks at ZeRO stage {manifest.zero_stage}, "
                f"this start has {world} at stage {self.zero_stage}; start with the same"
            )
        if manifest.store != self.store:
            raise FoldlineError(
                "--resume: data.store holds other data than the run was trained on (content hash differs); give the same store"
            )


def _save_rank(path: Path, ema: Ema) -> None:
    save_file({f"ema.{i}": average.detach().cpu().contiguous() for i, average in enumerate(ema.averages)}, path)


def _load_rank(path: Path, ema: Ema) -> None:
    state = load_file(path)
    ema.load([state[f"ema.{i}"] for i in range(len(ema.averages))])


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _hash_shared(folder: Path, names: list[str], *, sync: bool) -> dict[str, str]:
    """sha256 of each file, "" for one that cannot be read; the ranks share the work. ``sync`` also forces the files to the disk."""
    mine = {name: _hash(folder / name, sync) for name in names[dist.get_rank() :: dist.get_world_size()]}
    everyone: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, mine)
    return {name: digest for part in everyone for name, digest in part.items()}


def _hash(path: Path, sync: bool) -> str:
    try:
        with path.open("rb") as file:
            if sync:
                os.fsync(file.fileno())
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def read_manifest(path: Path) -> Manifest:
    """The manifest of the checkpoint in the folder ``path``. FoldlineError where it is absent, damaged or of another schema."""
    try:
        data = json.loads((path / "manifest.json").read_text())
        if data["schema"] != SCHEMA:
            raise FoldlineError(f"manifest.json has schema {data['schema']}, this version reads {SCHEMA}")
        return Manifest(**data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FoldlineError(f"manifest.json is not readable: {error}") from None


def _damage(path: Path, manifest: Manifest) -> list[str]:
    """One text per file that is gone or has other bytes than were written; the same list on all ranks."""
    found = _hash_shared(path, sorted(manifest.files), sync=False)
    return [
        f"{name} {'has other bytes than were written' if found[name] else 'is missing or unreadable'}"
        for name, digest in manifest.files.items()
        if found[name] != digest
    ]


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


def _remove(path: Path) -> None:
    """Delete a checkpoint, its manifest first: a deletion cut short leaves nothing that looks like a checkpoint."""
    (path / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
