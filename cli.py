"""The script ``foldline``: commands stand in each package's ``arguments.py``, which loads nothing heavy, so ``--help`` needs no torch."""

from __future__ import annotations

import argparse
import sys

from . import __version__
from .cluster import arguments as cluster
from .data_store import arguments as data_store
from .errors import FoldlineError
from .export import arguments as export
from .model import arguments as model
from .trainer import arguments as trainer


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command. Exit code 0: done; 2 (or what the error has): one message on stderr; 130: interrupted."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args) or 0)
    except FoldlineError as error:
        print(f"foldline: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        print("foldline: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="foldline", description="Train AlphaFold2 and ship it as folding engines.")
    parser.add_argument("--version", action="version", version=f"foldline {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for package in (data_store, trainer, export, model, cluster):
        package.add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
