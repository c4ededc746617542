"""The checkpoints of one run: saved while training goes on, found again, and restored to any number of ranks and any ZeRO stage."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch.distributed as dist
from torch import Tensor

from ..errors import FoldlineError
from .checkpoint import Found, Manifest, committed, damage, file_hash, folder_of, partial_of, rank_file, read_manifest, sweep
from .checkpoint_state import Shares, restore, take_snapshot
from .checkpoint_writer import MODULE_PREFIX, Policy, Writing
from .ema import Ema
from .partitions import gather
from .rundir import RunDir

ALLOWED_FAILURES = 1  # in a row; one more ends the run


class Checkpoints:
    """Every method but ``news`` and ``steps`` is collective: all ranks call it. Leaving the context waits for what is being written.

    Without ``asynchronous`` ``save`` returns when the checkpoint is committed.
    """

    def __init__(self, run: RunDir, zero_stage: int, store: str, policy: Policy, *, asynchronous: bool = True) -> None:
        self._run, self._stage, self._store, self._policy, self._asynchronous = run, zero_stage, store, policy, asynchronous
        self._writing: Writing | None = None
        self._told = True  # whether ``news`` has told about ``_writing``
        self._news: list[str] = []
        self._failures: list[str] = []  # in a row

    def save(self, engine: Any, ema: Ema, step: int, samples: int, mlflow_run: str, best: Sequence[int] = (), obstacle: str = "") -> None:
        """Copy the state after ``step`` steps and write it; first wait for the checkpoint before. The steps ``best`` are kept.
        ``obstacle``: why rank 0 must not write it, or "".

        FoldlineError, on all ranks, when this is the second in a row that cannot be written.
        """
        self.settle()
        snapshot = take_snapshot(engine, self._stage, ema)
        problem = [obstacle or self._make_room(step, snapshot.checkpoint_bytes) if dist.get_rank() == 0 else ""]
        dist.broadcast_object_list(problem)
        if problem[0]:
            self._failed(step, problem[0])
            return
        about = (step, samples, snapshot.updates, snapshot.skipped, dist.get_world_size(), self._stage, self._store, mlflow_run)
        manifest = Manifest(*about, files={})
        self._writing = Writing(self._run, dist.get_rank(), snapshot, manifest, tuple(best), self._policy)
        self._told = False
        if not self._asynchronous:
            self.settle()

    def settle(self) -> None:
        """Wait for the checkpoint that is being written, if any. FoldlineError when it is the second in a row that failed."""
        if self._writing is None:
            return
        writing = self._writing
        errors = [""] * dist.get_world_size()
        dist.all_gather_object(errors, writing.share_error())
        problem = ["; ".join(f"rank {rank}: {error}" for rank, error in enumerate(errors) if error)]
        if dist.get_rank() == 0:
            outcome = writing.outcome(give_up=bool(problem[0]))
            problem = [problem[0] or outcome]
            self._tell()
        dist.broadcast_object_list(problem)
        self._writing = None
        if not problem[0]:
            self._failures.clear()
            return
        if dist.get_rank() == 0:
            shutil.rmtree(partial_of(self._run.checkpoints, writing.manifest.step), ignore_errors=True)  # its room is needed
        self._failed(writing.manifest.step, problem[0])

    def finish(self) -> None:
        """The run ends here: wait, and raise FoldlineError where the last checkpoint was not written."""
        self.settle()
        if self._failures:
            raise FoldlineError(f"{self._failures[-1]}; {self._way_out()}")

    def news(self) -> list[str]:
        """Lines about checkpoints since the last call, without waiting; on rank 0."""
        committed_ = self._writing.committed if self._writing else None
        if committed_ is not None and committed_.done():
            self._tell()
        lines, self._news = self._news, []
        return lines

    def steps(self) -> list[int]:
        """Steps with a checkpoint, one that is being written included, oldest first."""
        coming = {self._writing.manifest.step} if self._writing else set()
        return sorted({*committed(self._run.checkpoints), *coming})

    def weights(self, engine: Any, partitions: Sequence[Tensor]) -> dict[str, Tensor]:
        """The network's whole state dict from values laid out like the optimizer's fp32 partitions."""
        named = gather(engine, self._stage, partitions) | dict(engine.module.named_buffers())
        return {name.removeprefix(MODULE_PREFIX): value for name, value in named.items() if name.startswith(MODULE_PREFIX)}

    def newest(self, tell: Callable[[str], None]) -> Found:
        """The newest checkpoint whose files all have their hashes, the mirror's where the run's is gone or damaged.

        ``tell`` gets one message for each that is passed over and for a mirror that is used. FoldlineError where none is whole, and where
        the store is not the one trained on.
        """
        places = [self._run.checkpoints, *([Path(self._policy.mirror)] if self._policy.mirror else [])]
        listed = [sorted(((step, -i) for i, place in enumerate(places) for step in committed(place)), reverse=True)]
        dist.broadcast_object_list(listed)
        for step, number in listed[0]:
            path = folder_of(places[-number], step)
            try:
                manifest = read_manifest(path)
                problems = damage(manifest, _hash_shared(path, sorted(manifest.files)))
            except FoldlineError as error:
                problems = [str(error)]
            else:
                if not problems:
                    if manifest.store != self._store:
                        raise FoldlineError(
                            "--resume: data.store holds other data than the run was trained on (content hash differs); give the same store"
                        )
                    if number:
                        tell(f"{folder_of(places[0], step)} is gone or damaged; its copy in run.checkpoint_mirror is used")
                    return Found(path, manifest)
            tell(f"checkpoint {path} is damaged ({'; '.join(problems)}); trying the next best")
        raise FoldlineError(f"no checkpoint in {' or '.join(map(str, places))} is whole; start again in another run.dir")

    def restore(self, engine: Any, ema: Ema, found: Found) -> None:
        """Put Adam's moments and the EMA of a verified checkpoint into an engine that was initialized with its weights."""
        shares = Shares(found.path / rank_file(rank) for rank in range(found.manifest.world))
        restore(engine, self._stage, ema, shares, found.manifest.updates)
        engine.skipped_steps = found.manifest.skipped

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writing is not None:
            self._writing.close()

    def _make_room(self, step: int, needed: int) -> str:
        """Make the folder for a checkpoint of ``needed`` bytes; why that cannot be, or ""."""
        try:
            self._run.checkpoints.mkdir(parents=True, exist_ok=True)
            sweep(self._run.checkpoints)
            free = shutil.disk_usage(self._run.checkpoints).free
            if free < needed:
                return f"no room in {self._run.checkpoints}: a checkpoint needs {needed} bytes, {free} are free"
            partial_of(self._run.checkpoints, step).mkdir()
        except OSError as error:
            return str(error)
        return ""

    def _failed(self, step: int, problem: str) -> None:
        """Count a checkpoint that was not written, alike on all ranks."""
        self._told = True
        self._failures.append(f"the checkpoint of step {step} was not written: {problem}")
        if len(self._failures) > ALLOWED_FAILURES:
            raise FoldlineError(f"{self._failures[-1]}; it is number {len(self._failures)} in a row; {self._way_out()}")
        self._news.append(f"{self._failures[-1]}; training goes on, the next checkpoint is tried at its time")

    def _way_out(self) -> str:
        kept = committed(self._run.checkpoints)
        if not kept:
            return f"there is no checkpoint yet; make room, delete or rename {self._run.root} and start again without --resume"
        room = "make room (run.keep_last, run.keep_best and run.keep_every say what stays) and go on with --resume"
        return f"the checkpoint of step {kept[-1]} is whole; {room}"

    def _tell(self) -> None:
        """Rank 0: put the outcome of a commit that has ended among the news, once."""
        writing = self._writing
        if writing is None or writing.committed is None or self._told:
            return
        self._told = True
        if writing.committed.exception() is None:
            self._news += [f"checkpoint of step {writing.manifest.step}: {writing.committed.result()}", *writing.warnings]


def _hash_shared(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """sha256 of each file, "" for one that cannot be read; the ranks share the work."""
    mine = {name: file_hash(folder / name) for name in names[dist.get_rank() :: dist.get_world_size()]}
    everyone: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, mine)
    return {name: digest for part in everyone for name, digest in part.items()}
