"""The sub-commands of `trainer` for the script: argparse alone here, each command one lazy import and one call."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import FoldlineError


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `train`."""
    _train(commands)


def _train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("train", help="train under DeepSpeed, followed in MLflow")
    sub.add_argument("--config", type=Path, required=True, help="TOML file, see docs/training.md")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override, e.g. optim.lr=3e-4")
    sub.add_argument(
        "--launcher", choices=("none", "mpi"), default="none", help="mpi: start the ranks with mpirun; none: ranks already stand"
    )
    sub.add_argument("--ranks", type=int, help="number of ranks to start with --launcher mpi (default 1)")
    sub.add_argument("--resume", action="store_true", help="continue from the newest checkpoint of run.dir")
    sub.set_defaults(run=_run_train)


def _run_train(args: argparse.Namespace) -> int:
    if args.launcher == "mpi":
        from ..cluster.launch import mpirun
        from .config import load_config
        from .rundir import check_start
        from .start import check_initial

        config = load_config(args.config, args.overrides)
        check_start(config, args.resume)  # a mistake is told once, before the ranks start
        if not args.resume:
            check_initial(config)
        rest = ["train", "--config", str(args.config), *(f"--set={o}" for o in args.overrides), *(["--resume"] if args.resume else [])]
        return mpirun(1 if args.ranks is None else args.ranks, rest)
    if args.ranks is not None:
        raise FoldlineError(f"--ranks {args.ranks} needs --launcher mpi; without a launcher the ranks that already stand train")
    from .loop import train_command

    return train_command(args.config, args.overrides, args.resume)
