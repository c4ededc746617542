"""The script ``foldline``: each sub-command is a lazy import and one call, so ``--help`` needs no torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import __version__
from .errors import FoldlineError


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command. Exit code 0: done; 2: the user's input, with one message on stderr; 130: interrupted."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args) or 0)
    except FoldlineError as error:
        print(f"foldline: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        print("foldline: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="foldline", description="Train AlphaFold2 and ship it as folding engines.")
    parser.add_argument("--version", action="version", version=f"foldline {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_ingest, _store, _train, _export, _fold, _weights, _doctor):
        add(commands)
    return parser


def _ingest(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("ingest", help="raw mmCIF/PDB + A3M -> Zarr feature store")
    sub.add_argument("source", type=Path, help="folder of NAME.cif|.pdb(.gz) with NAME.a3m(.gz), NAME = pdbid_CHAIN")
    sub.add_argument("--store", type=Path, required=True, help="the store to create (must not exist)")
    sub.set_defaults(run=_run_ingest)


def _run_ingest(args: argparse.Namespace) -> int:
    from .data_store.ingest import ingest_command

    return ingest_command(args.source, args.store)


def _store(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("store", help="look into a feature store: ls, show, verify")
    actions = sub.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, text in (("ls", "one line per chain"), ("verify", "check every hash and shape"), ("show", "one chain in full")):
        action = actions.add_parser(name, help=text)
        action.add_argument("store", type=Path)
        if name == "show":
            action.add_argument("chain", help="chain id, as `store ls` prints it")
        action.set_defaults(run=_run_store, action=name)


def _run_store(args: argparse.Namespace) -> int:
    from .data_store import commands

    if args.action == "show":
        return commands.show(args.store, args.chain)
    return commands.verify(args.store) if args.action == "verify" else commands.ls(args.store)


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
        from .cluster.launch import mpirun
        from .trainer.config import load_config
        from .trainer.rundir import check_start

        check_start(load_config(args.config, args.overrides), args.resume)  # a mistake is told once, before the ranks start
        rest = ["train", "--config", str(args.config), *(f"--set={o}" for o in args.overrides), *(["--resume"] if args.resume else [])]
        return mpirun(1 if args.ranks is None else args.ranks, rest)
    if args.ranks is not None:
        raise FoldlineError(f"--ranks {args.ranks} needs --launcher mpi; without a launcher the ranks that already stand train")
    from .trainer.loop import train_command

    return train_command(args.config, args.overrides, args.resume)


def _export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("export", help="trained weights -> ONNX -> engine -> gated bundle")
    sub.add_argument("--run", type=Path, required=True, dest="run_dir", help="run directory of `foldline train`")
    sub.add_argument("--out", type=Path, required=True, help="bundle to create (must not exist)")
    sub.add_argument("--engine", choices=("auto", "onnxruntime", "tensorrt", "tensorrt_rtx"), default="auto")
    sub.set_defaults(run=_run_export)


def _run_export(args: argparse.Namespace) -> int:
    from .export.command import export_command

    return export_command(args.run_dir, args.out, args.engine)


def _fold(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("fold", help="fold proteins with a bundle: mmCIF, PAE json, HTML report")
    sub.add_argument("source", type=Path, help="folder or file: A3M, with NAME.cif|.pdb beside it for comparison")
    sub.add_argument("--bundle", type=Path, required=True)
    sub.add_argument("--out", type=Path, required=True, help="folder for the results (must not hold any)")
    sub.add_argument("--recycles", type=int, default=3, help="passes after the first")
    sub.add_argument("--seed", type=int, default=0)
    sub.set_defaults(run=_run_fold)


def _run_fold(args: argparse.Namespace) -> int:
    from .export.fold import fold_command

    return fold_command(args.source, args.bundle, args.out, args.recycles, args.seed)


def _weights(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("weights", help="DeepMind's and OpenFold's parameters in and out")
    actions = sub.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, text in (("import", "DeepMind's npz or OpenFold's pt -> safetensors"), ("export", "safetensors -> npz or pt")):
        action = actions.add_parser(name, help=text)
        action.add_argument(
            "source", type=Path, help="params npz or pt" if name == "import" else "safetensors of `foldline weights import` or training"
        )
        action.add_argument("--preset", required=True, help="model the weights are of, e.g. model_1_ptm")
        action.add_argument("--out", type=Path, required=True, help="file to write (must not exist)")
        action.add_argument(
            "--format", choices=("auto", "deepmind", "openfold"), default="auto", help="whose names; auto: .pt is OpenFold's"
        )
        action.set_defaults(run=_run_weights, action=name)


def _run_weights(args: argparse.Namespace) -> int:
    from .model.convert.command import weights_command

    return weights_command(args.action, args.source, args.preset, args.out, args.format)


def _doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("doctor", help="what works on this machine, what does not, and why")
    sub.set_defaults(run=_run_doctor)


def _run_doctor(args: argparse.Namespace) -> int:
    from .cluster.doctor import doctor_command

    return doctor_command()


if __name__ == "__main__":
    sys.exit(main())
