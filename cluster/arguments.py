"""The sub-commands of `cluster` for the script: argparse alone here, each command one lazy import and one call."""

from __future__ import annotations

import argparse


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `doctor`."""
    _doctor(commands)


def _doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("doctor", help="what works on this machine, what does not, and why")
    sub.set_defaults(run=_run_doctor)


def _run_doctor(args: argparse.Namespace) -> int:
    from .doctor import doctor_command

    return doctor_command()
