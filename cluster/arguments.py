"""The sub-commands of `cluster` for the script: argparse alone here, each command one lazy import and one call."""

from __future__ import annotations

import argparse

from ..errors import FoldlineError
from .jobs.arguments import add_jobs, check_command


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `doctor`, `launch`, `submit`, `jobs`, `cancel`."""
    _doctor(commands)
    _launch(commands)
    add_jobs(commands)


def _doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("doctor", help="what works on this machine, what does not, and why")
    sub.set_defaults(run=_run_doctor)


def _run_doctor(args: argparse.Namespace) -> int:
    from .doctor import doctor_command

    return doctor_command()


def _launch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("launch", help="start the ranks of this host; to be run once on each host of a job")
    sub.add_argument("--ranks-per-node", type=int, required=True, metavar="N", help="ranks on each host, the same number everywhere")
    sub.add_argument("--nodes", type=int, metavar="N", help="hosts of the job (default: what PBS, LSF, Slurm or Kubeflow say, else 1)")
    sub.add_argument("--node", type=int, metavar="I", help="this host's number, from 0")
    sub.add_argument("--address", metavar="HOST", help="host 0, where the ranks meet")
    sub.add_argument("--port", type=int, help="a port that is free there")
    sub.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="a foldline command line, e.g. train --config FILE"
    )
    sub.set_defaults(run=_run_launch, known=commands.choices)


def _run_launch(args: argparse.Namespace) -> int:
    import os

    from .agent import HostPlace, find_place, launch

    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise FoldlineError(
            "there is no command to launch; give it behind --, e.g. foldline launch --ranks-per-node 8 -- train --config FILE"
        )
    check_command(command, args.known)
    given = (args.nodes, args.node, args.address, args.port)
    if all(value is None for value in given):
        place = find_place(os.environ)
    elif any(value is None for value in given) or not 0 <= args.node < args.nodes:
        raise FoldlineError(
            "--nodes, --node, --address and --port go together, --node from 0 to below --nodes; without all, they are found"
        )
    elif not 0 < args.port < 2**16:
        raise FoldlineError(f"--port {args.port} is not within 1 to 65535; give one that is free on host 0")
    else:
        place = HostPlace(args.node, args.nodes, args.address, args.port)
    return launch(args.ranks_per_node, place, command)
