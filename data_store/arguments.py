"""The sub-commands of `data_store` for the script: argparse alone here, each command one lazy import and one call."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `ingest`, `store`."""
    _ingest(commands)
    _store(commands)


def _ingest(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("ingest", help="raw mmCIF/PDB + A3M -> Zarr feature store")
    sub.add_argument("source", type=Path, help="folder of NAME.cif|.pdb(.gz) with NAME.a3m(.gz), NAME = pdbid_CHAIN")
    sub.add_argument("--store", type=Path, required=True, help="the store to create (must not exist)")
    sub.set_defaults(run=_run_ingest)


def _run_ingest(args: argparse.Namespace) -> int:
    from .ingest import ingest_command

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
    from . import commands

    if args.action == "show":
        return commands.show(args.store, args.chain)
    return commands.verify(args.store) if args.action == "verify" else commands.ls(args.store)
