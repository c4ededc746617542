"""Writing a checkpoint beside the training: each rank its share, rank 0 the whole model and the commit, with retention and mirror."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import FoldlineError
from ..whole_file import write_atomic
from .checkpoint import (
    CONFIG,
    EMA,
    MODEL,
    Manifest,
    commit,
    committed,
    copy_checkpoint,
    file_hash,
    folder_of,
    partial_of,
    publish,
    rank_file,
    remove,
    superfluous,
    write_tensors,
)
from .checkpoint_state import AVERAGE, WEIGHT, Shares, Snapshot
from .rundir import RunDir

MODULE_PREFIX = "model."  # the network's name within the training step
POLL = 0.05  # seconds between looks for the other ranks' shares
GRACE = 5.0  # seconds that a run which ends by an error gives the other ranks to finish theirs


@dataclass(frozen=True)
class Policy:
    """Which checkpoints stay, and where else they lie. ``mirror``: "" = nowhere."""

    keep_last: int
    keep_every: int = 0
    mirror: str = ""
    publish_best: bool = True  # False where a side job says which is the best and keeps ``weights/best.safetensors``


class Writing:
    """One checkpoint on its way to the disk, from the moment its state was copied."""

    def __init__(self, run: RunDir, rank: int, snapshot: Snapshot, manifest: Manifest, best: tuple[int, ...], policy: Policy) -> None:
        self.manifest = manifest
        self.warnings: list[str] = []  # of rank 0, whole once ``committed`` is
        self._run, self._rank, self._snapshot, self._best, self._policy = run, rank, snapshot, best, policy
        self._partial = partial_of(run.checkpoints, manifest.step)
        self._given_up = threading.Event()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="checkpoint")
        self._share = self._threads.submit(self._write_share)
        self.committed: Future[Path] | None = self._threads.submit(self._commit) if rank == 0 else None
        self._threads.shutdown(wait=False)  # takes no further work

    def share_error(self) -> str:
        """Wait for this rank's share; why it could not be written, or ""."""
        return _reason(self._share)

    def outcome(self, *, give_up: bool) -> str:
        """On rank 0: wait for the commit, or end it when some share will not come; why there is none, or ""."""
        if give_up:
            self._given_up.set()
        assert self.committed
        return _reason(self.committed)

    def close(self) -> None:
        """The run ends by an error: finish what can be finished without the other ranks."""
        timer = threading.Timer(GRACE, self._given_up.set)
        timer.daemon = True
        timer.start()
        self._share.exception()
        if self.committed:
            self.committed.exception()
        timer.cancel()

    def _write_share(self) -> None:
        name = rank_file(self._rank)
        digest = write_tensors(self._partial / name, self._snapshot.named(), {"weights": "share"})
        write_atomic(self._partial / f"{name}.done", json.dumps(digest))

    def _commit(self) -> Path:
        """Rank 0: join the shares to the whole model and EMA, commit, delete what retention allows, copy to the mirror."""
        files = self._await_shares()
        shares = Shares(self._partial / name for name in files)
        about = {"step": str(self.manifest.step), "samples": str(self.manifest.samples)}
        for name, kind, says in ((MODEL, WEIGHT, "model"), (EMA, AVERAGE, "ema")):
            whole = shares.whole(kind, self._snapshot.shapes) | self._snapshot.buffers
            network = {key.removeprefix(MODULE_PREFIX): value for key, value in whole.items() if key.startswith(MODULE_PREFIX)}
            files[name] = write_tensors(self._partial / name, network, about | {"weights": says})
        write_atomic(self._partial / CONFIG, self._run.config.read_text())
        files[CONFIG] = file_hash(self._partial / CONFIG)
        manifest = replace(self.manifest, files=files)
        final = commit(self._run.checkpoints, manifest)
        try:
            publish(final / EMA, self._run.weights)
            if self._best and self._policy.publish_best:
                publish(folder_of(self._run.checkpoints, self._best[0]) / EMA, self._run.best)
            self._delete_old(self._run.checkpoints)
        except OSError as error:
            self.warnings.append(f"{final} is committed, but: {error}")
        self._mirror(final, manifest)
        return final

    def _await_shares(self) -> dict[str, str]:
        """The hash of every rank's file, once all are on the disk. Looks at the disk: the ranks do not talk beside the training."""
        found: dict[str, str] = {}
        names = [rank_file(rank) for rank in range(self.manifest.world)]
        while missing := [name for name in names if name not in found]:
            for done in (path for name in missing if (path := self._partial / f"{name}.done").exists()):
                found[done.name.removesuffix(".done")] = json.loads(done.read_text())
                done.unlink()
            if self._given_up.is_set():
                raise FoldlineError(f"{len(missing)} of {len(names)} ranks have not written their share")
            if missing:
                time.sleep(POLL)
        return {name: found[name] for name in names}

    def _mirror(self, final: Path, manifest: Manifest) -> None:
        """Copy a committed checkpoint; a mirror that does not take it is told and costs nothing else."""
        if not self._policy.mirror:
            return
        place = Path(self._policy.mirror)
        try:
            place.mkdir(parents=True, exist_ok=True)
            copy_checkpoint(final, place, manifest)
            self._delete_old(place)
        except (OSError, FoldlineError) as error:
            self.warnings.append(f"the checkpoint of step {manifest.step} could not be copied to run.checkpoint_mirror: {error}")

    def _delete_old(self, place: Path) -> None:
        policy = self._policy
        for step in superfluous(committed(place), self.manifest.step, policy.keep_last, policy.keep_every, self._best):
            remove(folder_of(place, step))


def _reason(future: Future[Path] | Future[None]) -> str:
    error = future.exception()
    if error is None or isinstance(error, FoldlineError):
        return str(error or "")
    return f"{type(error).__name__}: {error}"  # whatever it is, the other ranks are told instead of left waiting
