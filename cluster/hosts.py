"""The hosts of a job as schedulers write them: Slurm's compressed lists, PBS's node file, LSF's pairs of host and slots."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import FoldlineError


def scheduled_hosts(environment: Mapping[str, str]) -> tuple[str, list[str]]:
    """The variable that names this job's hosts, and one name per slot in the scheduler's order; ("", []) outside of PBS, LSF and Slurm.

    Raises FoldlineError for a list that cannot be read.
    """
    if environment.get("PBS_NODEFILE"):
        return "PBS_NODEFILE", pbs_hosts(Path(environment["PBS_NODEFILE"]))
    if environment.get("LSB_MCPU_HOSTS"):
        return "LSB_MCPU_HOSTS", lsf_hosts(environment["LSB_MCPU_HOSTS"])
    if environment.get("LSB_HOSTS"):
        return "LSB_HOSTS", environment["LSB_HOSTS"].split()
    for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"):
        if environment.get(name):
            return name, slurm_hosts(environment[name])
    return "", []


def distinct(hosts: Sequence[str]) -> list[str]:
    """Each host once, in the order of its first slot."""
    return list(dict.fromkeys(hosts))


def place_of(name: str, hosts: Sequence[str]) -> int | None:
    """Index of the host called ``name`` in ``hosts``; lists may be with or without domains. None where it is not among them."""
    if name in hosts:
        return hosts.index(name)
    short = [host.split(".")[0] for host in hosts]
    return short.index(name.split(".")[0]) if name.split(".")[0] in short else None


def pbs_hosts(path: Path) -> list[str]:
    """One line per slot (``mpiprocs`` of each chunk)."""
    try:
        hosts = path.read_text().split()
    except OSError as error:
        raise FoldlineError(f"PBS_NODEFILE = {path} cannot be read: {error}; it exists on the job's first host only") from None
    if not hosts:
        raise FoldlineError(f"PBS_NODEFILE = {path} is empty; start inside a PBS job")
    return hosts


def lsf_hosts(pairs: str) -> list[str]:
    """'hostA 2 hostB 1' -> ['hostA', 'hostA', 'hostB']."""
    words = pairs.split()
    if len(words) % 2 or not all(number.isdigit() for number in words[1::2]):
        raise FoldlineError(f"LSB_MCPU_HOSTS={pairs!r} is not a list of hosts and numbers; start inside an LSF job")
    return [host for host, slots in zip(words[::2], words[1::2], strict=True) for _ in range(int(slots))]


def slurm_hosts(text: str) -> list[str]:
    """Slurm's compressed list: 'gpu[07-09,12]-x,login' -> ['gpu07-x', 'gpu08-x', 'gpu09-x', 'gpu12-x', 'login']."""
    return [host for part in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text) for host in _expanded(part)]


def _expanded(pattern: str) -> list[str]:
    head, bracket, rest = pattern.partition("[")
    if not bracket:
        return [pattern]
    ranges, _, tail = rest.partition("]")
    names = []
    for piece in ranges.split(","):
        first, _, last = piece.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            raise FoldlineError(f"{pattern!r} is not of Slurm's form for lists of hosts, e.g. gpu[07-09,12]; start inside a Slurm job")
        numbers = range(int(first), int(last or first) + 1)
        names += [f"{head}{number:0{len(first)}d}" for number in numbers]
    return [name + end for name in names for end in _expanded(tail)]


def slurm_tasks(text: str) -> list[int]:
    """Slurm's tasks per node: '4(x2),3' -> [4, 4, 3]."""
    counts = []
    for piece in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", piece)
        if match is None:
            raise FoldlineError(f"SLURM_STEP_TASKS_PER_NODE={text!r} is not of the form 4(x2),3; start ranks with srun")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts
