"""The sub-commands of `model` for the script: argparse alone here, each command one lazy import and one call."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `weights`."""
    _weights(commands)


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
    from .convert.command import weights_command

    return weights_command(args.action, args.source, args.preset, args.out, args.format)
