"""What a job asks of its scheduler: one typed spec, from a site's defaults and the command line, checked as a whole."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import FoldlineError
from ...settings import from_dict, nearest, read_toml

SCHEDULERS = ("slurm", "pbs", "lsf", "kubernetes")
RUNTIMES = ("apptainer", "pyxis")
KINDS = ("job", "jobset", "pytorchjob", "trainjob")
ON_RANKS = ("train", "preflight")  # commands whose processes are ranks of one job
SHARED_OUT = ("search", "ingest")  # commands that an array divides
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?")  # also a Kubernetes label
TIME = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d)(?::([0-5]\d))?")
MEMORY = {"slurm": r"\d+[KMGT]?", "pbs": r"(?i)\d+[kmgt]?b?", "lsf": r"\d+([KMGT]B?)?", "kubernetes": r"\d+([KMGT]i?)?"}
WORDS = ("account", "partition", "qos", "namespace")  # keys whose value is one word of the scheduler's


@dataclass(frozen=True)
class JobSpec:
    """A job. Table ``[job]`` of a site's defaults has these keys; each is a flag of `foldline submit` too."""

    scheduler: str
    name: str = ""  # "" = foldline-COMMAND
    nodes: int = 1
    gpus_per_node: int = 0
    ranks_per_node: int = 0  # 0 = one per GPU, without GPUs one
    cpus_per_rank: int = 0  # 0 = the scheduler's default
    memory: str = ""  # per node, e.g. "200G"; "" = the scheduler's default
    time: str = ""  # [D-]HH:MM[:SS]; "" = the queue's default
    account: str = ""
    partition: str = ""  # Slurm's partition; the queue of PBS and LSF
    qos: str = ""  # Slurm
    extra: tuple[str, ...] = ()  # further options for the scheduler as they stand, e.g. "--exclusive"
    module: tuple[str, ...] = ()  # environment modules to load
    activate: str = ""  # file to source, with its arguments, e.g. "/proj/venv/bin/activate" or "/opt/conda/bin/activate foldline"
    environment: tuple[str, ...] = ()  # NAME=VALUE
    container: str = ""  # image; on Kubernetes the pods' image
    container_runtime: str = "apptainer"  # or "pyxis" (Slurm)
    mount: tuple[str, ...] = ()  # HOST_PATH:PATH for containers; CLAIM:PATH on Kubernetes
    mpirun: str = ""  # command that starts the ranks instead of srun or foldline launch; {ranks}, {ranks_per_node}, {nodes} are filled in
    array: int = 0  # tasks that divide a search or an ingest; 0 = no array
    chain: int = 1  # jobs that follow each other, for runs longer than the time limit
    signal_ahead: int = 300  # seconds before the limit at which the run is told to save and end
    requeue: bool = True  # start again after a lost rank (69) or a stop (75)
    kind: str = "job"  # Kubernetes: the manifest's kind
    namespace: str = ""  # Kubernetes
    folder: str = "foldline-jobs"  # scripts and logs, on a file system that all hosts see

    @property
    def ranks(self) -> int:
        """Processes per host."""
        return self.ranks_per_node or self.gpus_per_node or 1

    @property
    def seconds(self) -> int:
        """The time limit; 0 = none given."""
        match = TIME.fullmatch(self.time)
        if match is None:
            return 0
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def resolve(flags: Mapping[str, Any], defaults: Path | None, command: Sequence[str]) -> JobSpec:
    """The spec of ``command`` (a `foldline` command line) from the ``[job]`` table of ``defaults``, overlaid by ``flags`` that were given.

    Without ``defaults``: the file that FOLDLINE_JOB names, else ~/.config/foldline/job.toml where it is there.
    Raises one FoldlineError that lists every value that cannot be.
    """
    path = defaults or _site_defaults()
    table: dict[str, Any] = {}
    if path is not None:
        document = read_toml(path)
        unknown = [key for key in document if key != "job"]
        if unknown or "job" not in document:
            raise FoldlineError(f"{path}: defaults for jobs stand in one table [job]" + (f", not [{unknown[0]}]" if unknown else ""))
        table = document["job"]
        if not isinstance(table, dict):
            raise FoldlineError(f"{path}: job = {table!r} is a value; defaults for jobs stand in a table [job]")
    given = {key: value for key, value in flags.items() if value is not None}
    merged = {**table, **given}
    if not command:
        raise FoldlineError(
            "there is no command to run; give it behind --, e.g. foldline submit --scheduler slurm -- train --config run.toml"
        )
    if "scheduler" not in merged:
        raise FoldlineError(f"--scheduler is not given; one of {', '.join(SCHEDULERS)}")
    merged.setdefault("name", f"foldline-{command[0]}")
    spec = from_dict(JobSpec, merged, str(path) if path else "foldline submit")
    broken = [message for holds, message in _rules(spec, command) if not holds]
    if broken:
        raise FoldlineError("; ".join(broken))
    return spec


def _site_defaults() -> Path | None:
    if os.environ.get("FOLDLINE_JOB"):
        return Path(os.environ["FOLDLINE_JOB"])
    usual = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "foldline" / "job.toml"
    return usual if usual.is_file() else None


def _quoted(text: str) -> bool:
    """Whether the shell could divide ``text`` into words."""
    try:
        shlex.split(text)
    except ValueError:
        return False
    return True


def _rules(spec: JobSpec, command: Sequence[str]) -> list[tuple[bool, str]]:
    counts = ("nodes", "chain")
    naturals = ("gpus_per_node", "ranks_per_node", "cpus_per_rank", "array", "signal_ahead")
    kubernetes = spec.scheduler == "kubernetes"
    memory, example = MEMORY.get(spec.scheduler, MEMORY["slurm"]), "200Gi" if kubernetes else "200G"
    several = spec.nodes * (spec.ranks_per_node or 1) > 1  # GPUs alone make ranks of a training only
    return [
        (spec.scheduler in SCHEDULERS, f"scheduler = {spec.scheduler!r}: {nearest(spec.scheduler, SCHEDULERS)}"),
        *((getattr(spec, name) >= 1, f"{name} = {getattr(spec, name)} is below 1") for name in counts),
        *((getattr(spec, name) >= 0, f"{name} = {getattr(spec, name)} is negative") for name in naturals),
        (NAME.fullmatch(spec.name) is not None, f"name = {spec.name!r} is not of a-z, 0-9 and inner dashes, at most 52 letters"),
        (not spec.time or spec.seconds > 0, f"time = {spec.time!r} is not [D-]HH:MM[:SS], e.g. 24:00:00"),
        (not spec.memory or re.fullmatch(memory, spec.memory) is not None, f"memory = {spec.memory!r} is no size, e.g. {example}"),
        *((not re.search(r"\s", getattr(spec, name)), f"{name} = {getattr(spec, name)!r} is more than one word") for name in WORDS),
        *(
            (option.startswith("-"), f"extra = {option!r} is no option, e.g. --exclusive; give each by an --extra= of its own")
            for option in spec.extra
        ),
        *(
            (_quoted(getattr(spec, name)), f"{name} = {getattr(spec, name)!r} has an open quotation mark")
            for name in ("activate", "mpirun")
        ),
        (
            re.sub(r"\{(ranks|ranks_per_node|nodes)\}", "", spec.mpirun).find("{") < 0,
            f"mpirun = {spec.mpirun!r}: only {{ranks}}, {{ranks_per_node}} and {{nodes}} are filled in",
        ),
        (not spec.seconds or spec.signal_ahead < spec.seconds, f"signal_ahead = {spec.signal_ahead} s is not below time = {spec.time}"),
        (spec.container_runtime in RUNTIMES, f"container_runtime = {spec.container_runtime!r} is none of {', '.join(RUNTIMES)}"),
        (
            spec.container_runtime != "pyxis" or spec.scheduler == "slurm",
            f"container_runtime = 'pyxis' is a plugin of Slurm; with {spec.scheduler} use 'apptainer'",
        ),
        *((":" in mount, f"mount = {mount!r} is not of the form SOURCE:PATH") for mount in spec.mount),
        *(
            (re.match(r"[A-Za-z_]\w*=", pair) is not None, f"environment = {pair!r} is not of the form NAME=VALUE")
            for pair in spec.environment
        ),
        (not spec.mount or bool(spec.container), "mount is given without container"),
        (
            not several or command[0] in ON_RANKS or bool(spec.mpirun),
            f"{command[0]} is one process, not {spec.nodes} nodes x {spec.ranks_per_node or 1} ranks; give --array or --mpirun",
        ),
        (not spec.array or command[0] in SHARED_OUT, f"array = {spec.array}: only {' and '.join(SHARED_OUT)} can be divided"),
        (not spec.array or spec.chain == 1, "array and chain exclude each other: a task that is started again goes on by itself"),
        (not kubernetes or bool(spec.container), "scheduler = 'kubernetes' needs container, the image of the pods"),
        (not kubernetes or spec.chain == 1, "chain is for queues with a time limit; Kubernetes starts pods again by itself"),
        (not kubernetes or not spec.mpirun, "mpirun does not reach across pods; leave it out with Kubernetes"),
        (not kubernetes or not spec.extra, f"extra = {list(spec.extra)} has no place in a manifest; edit what --dry-run prints"),
        (not kubernetes or not (spec.module or spec.activate), "module and activate are for hosts; a pod has what its image has"),
        (spec.kind in KINDS, f"kind = {spec.kind!r} is none of {', '.join(KINDS)}"),
        (spec.kind == "job" or not spec.array, f"kind = {spec.kind!r} has no array; use 'job'"),
        (not spec.qos or spec.scheduler == "slurm", f"qos = {spec.qos!r} is Slurm's; with {spec.scheduler} give it by extra"),
    ]
