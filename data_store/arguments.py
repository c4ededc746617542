"""The sub-commands of `data_store` for the script: argparse alone here, each command one lazy import and one call."""

from __future__ import annotations

import argparse
from pathlib import Path

from .search.arguments import add_search


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `search`, `ingest`, `store`."""
    add_search(commands)
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
    for name, text in (("ls", "one line per chain"), ("verify", "check every hash and shape")):
        action = actions.add_parser(name, help=text)
        action.add_argument("store", type=Path)
        action.set_defaults(run=_run_store, action=name)
    _show(actions)
    _cluster(actions)
    _leakage(actions)


def _run_store(args: argparse.Namespace) -> int:
    from . import commands

    return commands.verify(args.store) if args.action == "verify" else commands.ls(args.store)


def _show(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    action = actions.add_parser("show", help="one chain: sequence, conservation, co-evolution beside the true contacts")
    action.add_argument("store", type=Path)
    action.add_argument("chain", help="chain id, as `store ls` prints it")
    action.add_argument("--png", type=Path, metavar="FILE", help="also draw the chain")
    action.add_argument("--top", type=int, default=20, metavar="N", help="co-evolving pairs to list (default 20)")
    action.set_defaults(run=_run_show)


def _run_show(args: argparse.Namespace) -> int:
    from .commands import show

    return show(args.store, args.chain, args.top, args.png)


def _cluster(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    action = actions.add_parser("cluster", help="cluster the chains by sequence with MMseqs2, for data.clusters")
    action.add_argument("store", type=Path)
    action.add_argument("--out", type=Path, required=True, help="the file to write: representative, tab, member")
    action.add_argument("--identity", type=float, default=0.4, help="of a member to its representative (default 0.4, as AF2)")
    action.add_argument("--coverage", type=float, default=0.8, help="of a member by the alignment (default 0.8)")
    action.add_argument("--threads", type=int, default=0, help="0: all cores")
    action.set_defaults(run=_run_cluster)


def _run_cluster(args: argparse.Namespace) -> int:
    from .chain_clusters import cluster_store

    return cluster_store(args.store, args.out, args.identity, args.coverage, args.threads)


def _leakage(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    action = actions.add_parser("leakage", help="compare what a run trains on with what it holds out; exit code 1 when it leaks")
    action.add_argument("store", type=Path)
    action.add_argument(
        "--config", type=Path, required=True, help="TOML with a [data] section: hold-out rules, leakage_identity, allowed_leaks"
    )
    action.add_argument("--out", type=Path, help="also write the report as JSON")
    action.add_argument("--threads", type=int, default=0, help="of MMseqs2; 0: all cores")
    action.set_defaults(run=_run_leakage)


def _run_leakage(args: argparse.Namespace) -> int:
    from .leakage import leakage_command

    return leakage_command(args.store, args.config, args.out, args.threads)
