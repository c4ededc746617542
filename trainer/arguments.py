"""The sub-commands of `trainer` for the script: argparse alone here, each command one lazy import and one call."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import FoldlineError


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `train`, `runs` and `track`."""
    _train(commands)
    _preflight(commands)
    _validate(commands)
    _replay(commands)
    _plan(commands)
    _profile(commands)
    _chaos(commands)
    _runs(commands)
    _track(commands)


def _validate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("validate", help="fold the validation chains with a run's checkpoints, or with given weights")
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", type=Path, metavar="RUN", dest="run_dir", help="run.dir of a training: its checkpoints")
    what.add_argument("--weights", type=Path, metavar="FILE", help="a safetensors file, on the sets of --config")
    which = sub.add_mutually_exclusive_group()
    which.add_argument("--watch", action="store_true", help="go on with each new checkpoint until the run ends")
    which.add_argument("--checkpoint", type=int, metavar="STEP", help="this one only (default: all without a report)")
    sub.add_argument("--config", type=Path, help="the TOML file that --weights are validated by")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override a key of --config")
    sub.add_argument("--out", type=Path, metavar="DIR", help="where --weights leaves its report (default: only the means are printed)")
    sub.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: cuda where torch sees one")
    sub.add_argument("--silence", type=float, default=3600.0, metavar="S", help="--watch: seconds without a sign after which a run is dead")
    sub.add_argument("--poll", type=float, default=5.0, metavar="S", help="--watch: seconds between looks at the run")
    sub.set_defaults(run=_run_validate)


def _run_validate(args: argparse.Namespace) -> int:
    if args.run_dir is not None and (args.config is not None or args.overrides or args.out is not None):
        raise FoldlineError("--run has its config and its place for reports: --config, --set and --out go with --weights")
    if args.weights is not None and (args.config is None or args.watch or args.checkpoint is not None):
        raise FoldlineError("--weights needs --config, and takes neither --watch nor --checkpoint: they go with --run")
    if not (args.silence > 0 and args.poll > 0):
        raise FoldlineError(f"--silence {args.silence:g} and --poll {args.poll:g} must be above 0 seconds")
    from .validate_command import validate_run, validate_weights

    if args.weights is not None:
        return validate_weights(args.weights, args.config, args.overrides, args.device, args.out)
    return validate_run(args.run_dir, args.watch, args.checkpoint, args.device, args.silence, args.poll)


def _train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("train", help="train under DeepSpeed, followed in MLflow")
    sub.add_argument("--config", type=Path, required=True, help="TOML file, see docs/training.md")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override, e.g. optim.lr=3e-4")
    sub.add_argument(
        "--launcher", choices=("none", "mpi"), default="none", help="mpi: start the ranks with mpirun; none: ranks already stand"
    )
    sub.add_argument("--ranks", type=int, help="number of ranks to start with --launcher mpi (default 1)")
    sub.add_argument(
        "--max-restarts", type=int, default=0, metavar="N", help="with --launcher mpi: start again when a rank was lost (default 0)"
    )
    sub.add_argument("--resume", action="store_true", help="continue from the newest checkpoint of run.dir")
    sub.set_defaults(run=_run_train)


def _run_train(args: argparse.Namespace) -> int:
    if args.max_restarts < 0:
        raise FoldlineError(f"--max-restarts {args.max_restarts} must be at least 0")
    if args.launcher == "mpi":
        from .config import load_config
        from .restarts import train_on_ranks
        from .rundir import check_start
        from .start import check_initial

        config = load_config(args.config, args.overrides)
        check_start(config, args.resume)  # a mistake is told once, before the ranks start
        if not args.resume:
            check_initial(config)
        rest = ["train", "--config", str(args.config), *(f"--set={o}" for o in args.overrides)]
        ranks = 1 if args.ranks is None else args.ranks
        return train_on_ranks(ranks, rest, Path(config.run.dir), args.resume, args.max_restarts)
    if args.max_restarts:
        raise FoldlineError(f"--max-restarts {args.max_restarts} needs --launcher mpi; elsewhere the scheduler starts a job again")
    if args.ranks is not None:
        raise FoldlineError(f"--ranks {args.ranks} needs --launcher mpi; without a launcher the ranks that already stand train")
    from .loop import train_command

    return train_command(args.config, args.overrides, args.resume)


def _preflight(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = _configured(commands, "preflight", "check hosts, links, store and disk before a training, on all its ranks")
    sub.add_argument("--launcher", choices=("none", "mpi"), default="none", help="as for train")
    sub.add_argument("--ranks", type=int, help="as for train")
    sub.set_defaults(run=_run_preflight)


def _run_preflight(args: argparse.Namespace) -> int:
    if args.launcher == "mpi":
        from ..cluster.launch import mpirun
        from .config import load_config

        load_config(args.config, args.overrides)  # a mistake is told once, before the ranks start
        rest = ["preflight", "--config", str(args.config), *(f"--set={o}" for o in args.overrides)]
        return mpirun(1 if args.ranks is None else args.ranks, rest)
    if args.ranks is not None:
        raise FoldlineError(f"--ranks {args.ranks} needs --launcher mpi; without a launcher the ranks that already stand are checked")
    from .preflight import preflight_command

    return preflight_command(args.config, args.overrides)


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
    track = commands.add_parser("track", help="send runs to MLflow that were written without a network, and exports")
    several = track.add_subparsers(title="commands", metavar="COMMAND", required=True)
    sub = several.add_parser("sync", help="send what the server lacks; may be stopped and given again")
    sub.add_argument("folders", nargs="+", type=Path, metavar="RUN_DIR", help="the run.dir of a training")
    sub.add_argument("--uri", default="", help="server or database (default: the run's, MLFLOW_TRACKING_URI, RUN/mlflow.db)")
    sub.set_defaults(run=_run_sync)
    sub = several.add_parser("export", help="a bundle as a child of its run, and on its model version")
    sub.add_argument("bundle", type=Path, metavar="BUNDLE", help="what `foldline export` made")
    sub.add_argument("--uri", default="", help="as for sync")
    sub.set_defaults(run=_run_track_export)


def _run_sync(args: argparse.Namespace) -> int:
    from .tracking.sync import sync_command

    return sync_command(args.folders, args.uri)


def _run_track_export(args: argparse.Namespace) -> int:
    from .tracking.exports import export_command

    return export_command(args.bundle, args.uri)


def _replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("replay", help="run a sample that made a step not finite alone, and say where it went wrong")
    sub.add_argument("file", type=Path, metavar="FILE", help="RUN/replays/step_N_rank_R.json")
    sub.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run it (default cpu)")
    sub.add_argument("--dtype", choices=("run", "float32", "float64"), default="run", help="default: the run's precision")
    sub.add_argument("--store", default="", metavar="STORE", help="the feature store, where it has moved")
    sub.set_defaults(run=_run_replay)


def _run_replay(args: argparse.Namespace) -> int:
    from .replay import replay_command

    return replay_command(args.file, args.device, args.dtype, args.store)


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
    grown = sub.add_argument_group("over nodes: time, network, storage, failures and cost of the whole run")
    grown.add_argument("--nodes", type=_counts, default=(), metavar="N,N…", help="numbers of nodes, for example 1,4,16,256")
    grown.add_argument("--gpus-per-node", type=int, default=8, metavar="N", help="default 8")
    grown.add_argument("--network", type=float, default=50.0, metavar="GB/s", help="per GPU between nodes (default 50: 400 Gbit/s)")
    grown.add_argument("--dap", type=int, default=0, metavar="N", help="ranks that share a sample (default: as few as the batch allows)")
    grown.add_argument(
        "--measured", type=float, default=0.0, metavar="S", help="a measured one-sample step on one such GPU, to calibrate by"
    )
    grown.add_argument("--price", type=float, default=0.0, metavar="P", help="of a GPU-hour")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.set_defaults(run=_run_plan)


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 1,4,16") from None


def _run_plan(args: argparse.Namespace) -> int:
    if args.nodes:
        from .scale_command import Growth, scale_command

        growth = Growth(args.nodes, args.gpus_per_node, args.network, args.dap, args.measured, args.price)
        return scale_command(args.config, args.overrides, args.gpu, growth, args.json)
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


def _chaos(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = _configured(commands, "chaos", "train under randomly timed faults, and hold the result against the undisturbed training")
    sub.add_argument("--faults", type=int, required=True, metavar="N", help="how many; with 9 or more every kind comes")
    sub.add_argument("--seed", type=int, metavar="S", help="of the faults' kinds, order and moments (default: a new one, printed)")
    sub.add_argument("--ranks", type=int, default=2, help="ranks on this host (default 2)")
    sub.add_argument("--only", action="append", default=[], metavar="KIND", help="no other kinds, e.g. 'rank killed'; may be given again")
    sub.add_argument("--out", type=Path, metavar="DIR", help="a new folder for both runs and chaos.json (default: run.dir/seed_S)")
    sub.set_defaults(run=_run_chaos)


def _run_chaos(args: argparse.Namespace) -> int:
    from .chaos.command import chaos_command

    return chaos_command(args.config, args.overrides, args.faults, args.seed, args.ranks, args.out, args.only)
