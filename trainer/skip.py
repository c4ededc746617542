"""A step that is not finite moves nothing: it is skipped on all ranks, counted, told, and left behind as files that run it alone.

How the ranks agree: a loss that is not finite has a gradient that is not (``poison``), and the gradient's norm is taken over all ranks
before the optimizer. DeepSpeed refuses such a norm itself at ZeRO 1 to 3; at stage 0 we do.
"""

from __future__ import annotations

import json
import math
import socket
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..data_store.sampler import open_order
from ..data_store.types import TrainBatch
from ..errors import FoldlineError
from ..model.outputs import Loss
from ..model.weights import save_weights
from ..whole_file import write_atomic
from .config import RunConfig
from .partitions import gather, master_partitions
from .rundir import RunDir

KEPT_WEIGHTS = 4  # files of weights beside the replays; those of older skipped steps go
MODULE_PREFIX = "model."  # the network's name within the training step


@dataclass(frozen=True)
class Suspect:
    """A sample that made, or may have made, a step not finite. ``crop``: runs of residue indices; ``terms``: losses, or "gradient"."""

    position: int
    chain: str
    seed: int
    crop: str
    recycles: int
    terms: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """What a rank remembers of one part of a step until the step is known to be finite. ``residues`` [B, N_res], -1 = padding."""

    positions: tuple[int, ...]
    passes: int
    residues: Tensor
    terms: Tensor

    @classmethod
    def of(cls, part: TrainBatch, terms: Sequence[Tensor]) -> Seen:
        features = part.cycles[0]
        residues = torch.where(features.seq_mask > 0, features.residue_index, -1)
        return cls(tuple(part.position.flatten().tolist()), len(part.cycles), residues, torch.stack(list(terms)))


class Skips:
    """The skipped steps of a run. ``notice`` is what to say of the step just taken, "" where it was finite."""

    def __init__(self, engine: Any, config: RunConfig) -> None:
        self.notice = ""
        self._engine = engine
        self._config = config
        self._run = RunDir(Path(config.run.dir))
        self._recent: deque[int] = deque()
        self._moved = 0  # the last step that moved the weights, as far as this process knows

    @property
    def count(self) -> int:
        """Skipped steps of the run so far; checkpoints keep the number."""
        return int(self._engine.skipped_steps)

    def step(self, norm: float | None) -> float:
        """Let the optimizer step unless the gradient's ``norm`` is not finite; returns the norm. None: DeepSpeed knows it. Collective."""
        if norm is None or math.isfinite(norm):
            self._engine.step()
        else:
            optimizer = self._engine.optimizer
            optimizer.step = lambda *_: None  # DeepSpeed counts the step and clears the gradients; Adam does not hear of it
            try:
                self._engine.step()
            finally:
                del optimizer.step
            self._engine.skipped_steps += 1
        return float(self._engine.get_global_grad_norm()) if norm is None else norm

    def judge(self, step: int, norm: float, seen: Sequence[Seen], sample_norms: Sequence[Tensor]) -> bool:
        """Whether ``step`` moved the weights. Where not: write the replays, and say in ``notice`` who was to blame. Collective.

        ``sample_norms`` are those of this rank's samples, empty where none were taken.
        """
        self.notice = ""
        if math.isfinite(norm):
            self._moved = step
            return True
        self._recent.append(step)
        mine = self._suspects(seen, sample_norms)
        everyone: list[list[Suspect]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(everyone, mine)
        if any(suspect.terms != GRADIENT for suspects in everyone for suspect in suspects):  # a loss explains the gradient
            everyone = [[s for s in suspects if s.terms != GRADIENT] for suspects in everyone]
        weights = self._keep_weights(step)
        rank = dist.get_rank()
        self.notice = f"step {step}: {_blame(everyone)}; {REMEDY.format(folder=self._run.replays)}"
        try:
            if everyone[rank]:
                self._write(step, rank, everyone[rank], weights)
        except OSError as error:
            self.notice += f" (that of rank {rank} could not be written: {error})"
        return False

    def check_budget(self, step: int) -> None:
        """Raise FoldlineError, on all ranks, when ``step`` was skipped and is one too many."""
        run = self._config.run
        while self._recent and self._recent[0] <= step - run.skip_window:
            self._recent.popleft()
        if self.notice and len(self._recent) > run.skip_budget:
            raise FoldlineError(
                f"{self.notice}; that makes {len(self._recent)} skipped within {run.skip_window} steps, run.skip_budget allows "
                f"{run.skip_budget}; once the cause is gone go on with --resume, or start anew with a lower optim.lr"
            )

    def _suspects(self, seen: Sequence[Seen], sample_norms: Sequence[Tensor]) -> list[Suspect]:
        """This rank's samples whose loss is not finite; without such a loss those whose gradient is not, or may not be."""
        order = open_order(Path(self._config.data.store), self._config.data, self._config.features)
        found = []
        for number, part in enumerate(seen):
            bad = tuple(name for name, value in zip(Loss._fields, part.terms.tolist(), strict=False) if not math.isfinite(value))
            finite = not bad and number < len(sample_norms) and math.isfinite(float(sample_norms[number]))
            if not finite:
                for position, residues in zip(part.positions, part.residues.tolist(), strict=True):
                    who = order.chain_at(position), order.seed_at(position)
                    found.append(Suspect(position, *who, _runs([r for r in residues if r >= 0]), part.passes - 1, bad or GRADIENT))
        return found

    def _write(self, step: int, rank: int, suspects: list[Suspect], weights: Path) -> None:
        path = self._run.replays / f"step_{step}_rank_{rank}.json"
        about = {
            "schema": 1,
            "step": step,
            "rank": rank,
            "host": socket.gethostname(),
            "config": "../config.json",
            "weights": weights.name,
            "samples": [asdict(suspect) for suspect in suspects],
        }
        write_atomic(path, json.dumps(about, indent=2) + "\n")

    def _keep_weights(self, step: int) -> Path:
        """The weights that the step started from, saved once for all steps skipped with them. Collective."""
        stage = self._config.deepspeed.zero_stage
        name = f"weights_before_{self._moved + 1 if self._moved else self._recent[0]}.safetensors"
        path = self._run.replays / name
        if len(self._recent) > 1 and self._recent[-2] > self._moved:
            return path  # nothing moved since the step before was skipped, and it saved them
        named = gather(self._engine, stage, master_partitions(self._engine, stage)) | dict(self._engine.module.named_buffers())
        if dist.get_rank() == 0:
            own = {key.removeprefix(MODULE_PREFIX): value for key, value in named.items() if key.startswith(MODULE_PREFIX)}
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                save_weights(path, own, {"step": str(step - 1), "weights": "model"})
                kept = sorted(path.parent.glob("weights_before_*.safetensors"), key=lambda file: file.stat().st_mtime)
                for old in kept[:-KEPT_WEIGHTS]:
                    old.unlink()
            except (OSError, FoldlineError) as error:  # a replay is lost, not the run
                print(f"foldline: {error}", file=sys.stderr)
        dist.barrier()
        return path


GRADIENT = ("gradient",)
REMEDY = "the step is skipped, no weight moved; run its samples alone: foldline replay {folder}/FILE.json"


def poison(loss: Tensor) -> Tensor:
    """``loss`` itself where it is finite; otherwise NaN, whose gradient is NaN too, whatever made the loss so. Costs no wait on a GPU."""
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)


def _blame(everyone: Sequence[Sequence[Suspect]]) -> str:
    """Who, of all ranks' suspects, and why."""
    terms = {term for suspects in everyone for suspect in suspects for term in suspect.terms}
    what = "gradient" if terms == set(GRADIENT) else "loss"
    guilty = [
        f"rank {rank}, " + ", ".join(f"sample {s.position} (chain '{s.chain}', residues {s.crop}): {' '.join(s.terms)}" for s in suspects)
        for rank, suspects in enumerate(everyone)
        if suspects
    ]
    return f"the {what} is not finite ({'; '.join(guilty)})"


def _runs(numbers: Sequence[int]) -> str:
    """[3, 4, 5, 9] -> "3-5,9"."""
    text: list[str] = []
    for index, number in enumerate(numbers):
        if index and number == numbers[index - 1] + 1:
            text[-1] = f"{text[-1].split('-')[0]}-{number}"
        else:
            text.append(str(number))
    return ",".join(text)
