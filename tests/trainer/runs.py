"""Small real trainings for the tests: a tiny network on the demo's chains, as whole jobs of some ranks on this host."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from safetensors.torch import load_file
from torch import Tensor

from foldline.cluster.launch import mpirun_command
from foldline.trainer.journal import Record, read_journal

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 400  # that a job may take on a busy machine
NETWORK = """
[model]
preset = "tiny"
c_m = 8
c_z = 8
c_s = 8
c_e = 8
template = { enabled = false }
extra_msa = { c_hidden_tri_mul = 8 }
evoformer = { blocks = 1, c_hidden_tri_mul = 8 }
structure = { iterations = 2, c_hidden = 4, c_resnet = 8 }

[features]
crop_size = 16
max_msa_clusters = 4
max_extra_msa = 8
max_templates = 0
max_recycles = 1

[optim]
lr = 1e-2
warmup_samples = 10
"""
# Neither validation nor tracking. Every such text ends in its section [run], so that more keys of it may follow.
BARE = """
[data]
store = "STORE"

[validate]
every = 0
trained_chains = 0

[tracking]
mlflow = false

[run]
dir = "RUN"
threads = 1
device = "cpu"
steps = 6
"""

STEPS = 12  # of the run to which faults happen, and which comes to the same bits
FAULTS = BARE.replace("steps = 6", f"steps = {STEPS}\ncheckpoint_every = 3\ndeterministic = true\ncollective_timeout = 120.0")


def write_config(folder: Path, store: Path | str, rest: str = BARE) -> Path:
    """``folder``/config.toml: the tiny network and ``rest``, in which STORE and RUN are replaced; the run is ``folder``/run."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.toml"
    path.write_text(NETWORK + rest.replace("STORE", str(store)).replace("RUN", str(folder / "run")))
    return path


def program(config: Path, *more: str, overrides: Sequence[str] = ()) -> list[str]:
    """``foldline train`` of one rank, or of the launcher where ``more`` says so."""
    return [sys.executable, "-m", "foldline.cli", "train", "--config", str(config), *(f"--set={o}" for o in overrides), *more]


def command(config: Path, *more: str, overrides: Sequence[str] = (), ranks: int = 2) -> list[str]:
    """``foldline train`` on ``ranks`` under mpirun, without our launcher."""
    alone = program(config, *more, overrides=overrides)
    return mpirun_command(ranks, alone) if ranks > 1 else alone


def finish(config: Path, *more: str, overrides: Sequence[str] = (), ranks: int = 2, code: int = 0) -> tuple[str, str]:
    """Run to the end, which must have exit ``code``; what was printed, and the errors."""
    words = command(config, *more, overrides=overrides, ranks=ranks)
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


def wait_until(holds: Callable[[], object], job: subprocess.Popen[str] | None = None, seconds: float = SECONDS) -> None:
    """Until ``holds`` is true; fails when ``job`` has ended before, or after ``seconds``."""
    end = time.monotonic() + seconds
    while not holds():
        assert job is None or job.poll() is None, job.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


class Job:
    """A training under our launcher. ``family`` are the processes that were there when they were last looked for."""

    def __init__(self, config: Path, *more: str, overrides: Sequence[str] = (), ranks: int = 2) -> None:
        self.run = config.parent / "run"
        words = program(config, "--launcher", "mpi", "--ranks", str(ranks), *more, overrides=overrides)
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.family: list[psutil.Process] = []

    @property
    def step(self) -> int:
        """The last that is journalled, 0 before any."""
        return max((record.step for record in history(self.run)), default=0)

    def wait_until(self, holds: Callable[[], object]) -> None:
        """As the function does, with this job."""
        wait_until(holds, self.process)
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def wait_for_checkpoint(self) -> None:
        """Until one is committed."""
        self.wait_until(lambda: list(self.run.glob("checkpoints/step_*/manifest.json")))

    def ranks(self) -> dict[int, int]:
        """Rank -> process, of those that live now."""
        found = {}
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if "foldline.cli" in process.cmdline() and "OMPI_COMM_WORLD_RANK" in (place := process.environ()):
                    found[int(place["OMPI_COMM_WORLD_RANK"])] = process.pid
            except psutil.Error:
                continue
        return found

    def rank(self, number: int) -> int:
        """The process of a rank."""
        return self.ranks()[number]

    def end(self) -> tuple[int, str, str]:
        """Exit code, printed lines, errors; asserts that no process is left."""
        printed, errors = self.process.communicate(timeout=SECONDS)
        _, alive = psutil.wait_procs(self.family, timeout=30)
        assert [p.cmdline() for p in alive] == []
        return self.process.returncode, printed, errors


def history(run: Path, kind: str = "train") -> list[Record]:
    """The records of a kind that count, none where there is no journal yet."""
    journal = run / "metrics.jsonl"
    return [record for record in read_journal(journal) if record.kind == kind] if journal.exists() else []


def untimed(record: Record) -> dict[str, float]:
    """The metrics that must not depend on when and how fast the run went."""
    return {name: value for name, value in record.metrics.items() if name.startswith(("loss/", "train/", "optim/"))}


def checkpoint(run: Path, step: int) -> dict[str, Tensor]:
    """Every tensor of the checkpoint of ``step``: weights, EMA, Adam's moments."""
    files = sorted((run / "checkpoints" / f"step_{step:08d}").glob("*.safetensors"))
    assert len(files) >= 3
    return {f"{file.stem}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def check_equal(one: Path, other: Path, step: int) -> None:
    """Two runs have the same losses up to ``step``, and the same bits in its checkpoint."""
    for mine, theirs in zip(history(one), history(other), strict=True):
        assert mine.step == theirs.step
        assert untimed(mine) == untimed(theirs)
    mine, theirs = checkpoint(one, step), checkpoint(other, step)
    assert mine.keys() == theirs.keys()
    assert [key for key in mine if not mine[key].equal(theirs[key])] == []
