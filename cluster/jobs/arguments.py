"""The command lines of `foldline submit`, `jobs` and `cancel`: argparse alone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import FoldlineError
from ...settings import nearest

HERE = ("submit", "jobs", "cancel")  # commands that no job runs
_TEXT = """\
Every option may stand in a TOML file as a key of its table [job] (dashes become underscores), so that a site writes its defaults once:
--defaults FILE, else the file named by FOLDLINE_JOB, else ~/.config/foldline/job.toml. Options win over the file.

examples:
  foldline submit --scheduler slurm --nodes 4 --gpus-per-node 8 --time 24:00:00 --dry-run -- train --config run.toml
  foldline submit --scheduler pbs --partition gpu --chain 5 --time 12:00:00 --nodes 2 --gpus-per-node 4 -- train --config run.toml
  foldline submit --scheduler lsf --array 100 -- search queries.fasta --db uniref90=uniref90.fasta --out alignments
  foldline submit --scheduler kubernetes --container IMAGE --mount data:/data --nodes 2 --gpus-per-node 8 -- train --config /data/run.toml
"""

# Option -> (type, help). Each is a key of JobSpec, where the defaults stand.
OPTIONS: dict[str, tuple[type, str]] = {
    "scheduler": (str, "slurm, pbs, lsf or kubernetes"),
    "name": (str, "of the job (foldline-COMMAND)"),
    "nodes": (int, "hosts (1)"),
    "gpus-per-node": (int, "GPUs of each host (0)"),
    "ranks-per-node": (int, "processes of each host (one per GPU, without GPUs one)"),
    "cpus-per-rank": (int, "cores of each process (the scheduler's default)"),
    "memory": (str, "of each host, e.g. 200G"),
    "time": (str, "limit as [D-]HH:MM[:SS]"),
    "account": (str, "account or project"),
    "partition": (str, "Slurm's partition, or the queue of PBS and LSF"),
    "qos": (str, "Slurm's quality of service"),
    "activate": (str, "file to source first, e.g. a virtual environment's bin/activate, or '/opt/conda/bin/activate NAME'"),
    "container": (str, "image that foldline is run in; on Kubernetes the pods' image"),
    "container-runtime": (str, "apptainer (default), or pyxis, which is Slurm's"),
    "mpirun": (str, "start ranks by this command, e.g. 'mpiexec -n {ranks} --ppn {ranks_per_node}'"),
    "array": (int, "tasks that divide a search or an ingest"),
    "chain": (int, "jobs that follow each other, for runs longer than the limit (1)"),
    "signal-ahead": (int, "seconds before the limit at which a run saves and ends (300)"),
    "kind": (str, "Kubernetes: job (default), jobset, pytorchjob or trainjob"),
    "namespace": (str, "Kubernetes"),
    "folder": (str, "where scripts, notes and logs go, seen by all hosts (foldline-jobs)"),
}
LISTS = {
    "extra": "a further option for the scheduler, as it stands; several times",
    "module": "environment module to load; several times",
    "environment": "NAME=VALUE; several times",
    "mount": "HOST_PATH:PATH for a container, CLAIM:PATH on Kubernetes; several times",
}


def add_jobs(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `submit`, `jobs` and `cancel`."""
    sub = commands.add_parser(
        "submit",
        help="run a foldline command as a job of Slurm, PBS, LSF or Kubernetes",
        description="Run a foldline command as a batch job that saves before its time is up and goes on by itself.",
        epilog=_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, (kind, text) in OPTIONS.items():
        sub.add_argument(f"--{name}", type=kind, help=text, metavar="N" if kind is int else "TEXT")
    for name, text in LISTS.items():
        sub.add_argument(f"--{name}", action="append", help=text, metavar="TEXT")
    sub.add_argument("--no-requeue", dest="requeue", action="store_false", default=None, help="do not start again after a loss or a stop")
    sub.add_argument("--defaults", type=Path, metavar="FILE", help="TOML file with a table [job]")
    sub.add_argument("--dry-run", action="store_true", help="print the job's text and submit nothing")
    sub.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="a foldline command line")
    sub.set_defaults(run=_run_submit, known=commands.choices)

    sub = commands.add_parser("jobs", help="where submitted jobs are, and the end of their logs")
    sub.add_argument("job", nargs="?", default="", metavar="ID", help="id or name of a job (default: list the newest)")
    sub.add_argument("--follow", action="store_true", help="print log and state until the job has ended; exit code 1 unless it is done")
    sub.add_argument("--lines", type=int, default=10, metavar="N", help="of the log (default 10)")
    sub.add_argument("--limit", type=int, default=20, metavar="N", help="list at most so many (default 20)")
    sub.add_argument("--poll", type=float, default=5.0, metavar="S", help="--follow: seconds between looks (default 5)")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.set_defaults(run=_run_jobs)

    sub = commands.add_parser("cancel", help="call a submitted job off")
    sub.add_argument("job", metavar="ID", help="id or name")
    sub.set_defaults(run=_run_cancel)


def check_command(command: Sequence[str], known: Mapping[str, argparse.ArgumentParser]) -> None:
    """Read ``command`` as the job will; a mistake must not wait in a queue first. Ends the program as argparse does."""
    name = command[0] if command else ""
    if name in known and name not in HERE:
        known[name].parse_args(command[1:])
    elif name:
        rule = f"{name} is for this host, not for a job" if name in HERE else f"no command {name!r}; {nearest(name, list(known))}"
        raise FoldlineError(f"{rule}; give a foldline command behind --, e.g. -- train --config run.toml")


def _run_submit(args: argparse.Namespace) -> int:
    from .submit import submit_command

    keys = [name.replace("-", "_") for name in (*OPTIONS, *LISTS)]
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    check_command(command, args.known)
    return submit_command({key: getattr(args, key) for key in (*keys, "requeue")}, args.defaults, args.dry_run, command)


def _run_jobs(args: argparse.Namespace) -> int:
    from .follow import jobs_command

    return jobs_command(args.job, args.follow, args.lines, args.limit, args.poll, args.json)


def _run_cancel(args: argparse.Namespace) -> int:
    from .follow import cancel_command

    return cancel_command(args.job)
