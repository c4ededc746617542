"""The sub-commands of `trainer` for the script: argparse alone here, each command one lazy import and one call."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import FoldlineError


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `train`, `runs` and `track`."""
    _train(commands)
    _plan(commands)
    _profile(commands)
    _runs(commands)
    _track(commands)


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


def _runs(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("runs", help="list the newest runs with their best metrics")
    sub.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="run directories, or folders with some below (default: here)")
    sub.add_argument("--uri", default="", help="list an MLflow server's or database's runs instead")
    sub.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many (default 20)")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.set_defaults(run=_run_runs)


def _run_runs(args: argparse.Namespace) -> int:
    from .tracking.listing import runs_command

    return runs_command(args.folders, args.uri, args.limit, args.json)


def _track(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    track = commands.add_parser("track", help="send runs to MLflow that were written without a network")
    sub = track.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser(
        "sync", help="send what the server lacks; may be stopped and given again"
    )
    sub.add_argument("folders", nargs="+", type=Path, metavar="RUN_DIR", help="the run.dir of a training")
    sub.add_argument("--uri", default="", help="MLflow server or database (default: tracking.uri of the run, else MLFLOW_TRACKING_URI)")
    sub.set_defaults(run=_run_sync)


def _run_sync(args: argparse.Namespace) -> int:
    from .tracking.sync import sync_command

    return sync_command(args.folders, args.uri)


def _configured(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help: str) -> argparse.ArgumentParser:
    sub = commands.add_parser(name, help=help)
    sub.add_argument("--config", type=Path, required=True, help="TOML file of a run")
    sub.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override, e.g. features.crop_size=384"
    )
    return sub


def _plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = _configured(commands, "plan", "estimate memory per GPU and time per step of a config, without a GPU")
    sub.add_argument("--gpu", default="h100-80", help="h200, h100-80 (default), a100-80, a100-40, l40s, a10, or cpu: this machine")
    sub.add_argument("--world", type=int, default=1, metavar="N", help="ranks, one per GPU (default 1)")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.set_defaults(run=_run_plan)


def _run_plan(args: argparse.Namespace) -> int:
    from .plan_command import plan_command

    return plan_command(args.config, args.overrides, args.gpu, args.world, args.json)


def _profile(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = _configured(commands, "profile", "trace a few training steps: the dearest operations by sub-network")
    sub.add_argument("--steps", type=int, default=3, metavar="N", help="steps that are traced, after one that warms up (default 3)")
    sub.add_argument("--out", type=Path, required=True, help="new folder for trace.json.gz, operations.txt and operations.json")
    sub.set_defaults(run=_run_profile)


def _run_profile(args: argparse.Namespace) -> int:
    from .profile import profile_command

    return profile_command(args.config, args.overrides, args.steps, args.out)
