"""The sub-commands of `data_store` for the script: argparse alone here, each command one lazy import and one call."""

from __future__ import annotations

import argparse
from pathlib import Path

from .search.arguments import add_search

_STORE = "folder, .zip file or s3://BUCKET/PREFIX"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `search`, `ingest`, `store`."""
    add_search(commands)
    _ingest(commands)
    _store(commands)


def _ingest(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("ingest", help="raw mmCIF/PDB + alignments -> Zarr feature store")
    sub.add_argument(
        "sources", type=Path, nargs="+", metavar="SOURCE", help="folder of NAME.cif|.pdb(.gz) with NAME.a3m(.gz), or a .csv|.tsv"
    )
    sub.add_argument("--store", type=Path, required=True, help="the store to create (must not exist, unless --append)")
    sub.add_argument("--append", action="store_true", help="add to a store that exists; chains it has are skipped")
    sub.add_argument("--workers", type=int, default=1, metavar="N", help="processes on this machine (1)")
    sub.add_argument("--mpi", action="store_true", help="work on the ranks of an MPI job: mpirun -n N foldline ingest --mpi ...")
    layouts = ("auto", "folder", "openproteinset", "colabfold", "afdb", "manifest")
    sub.add_argument("--layout", choices=layouts, default="auto", help="how SOURCE is laid out; auto judges by the files' names")
    sub.add_argument("--structures", type=Path, metavar="FOLDER", help="structures of an archive of alignments (openproteinset, colabfold)")
    sub.add_argument("--templates", type=Path, metavar="FOLDER", help="PDBID.cif files: template hits become templates")
    sub.add_argument("--max-template-date", default="", metavar="DATE", help="no template released later; the chain's own date holds too")
    sub.add_argument("--report", type=Path, metavar="FOLDER", help="where report.html and report.json go (STORE.report)")
    sub.set_defaults(run=_run_ingest)


def _run_ingest(args: argparse.Namespace) -> int:
    from .ingest.command import ingest_command
    from .ingest.run import IngestSettings

    settings = IngestSettings(
        append=args.append,
        workers=args.workers,
        mpi=args.mpi,
        layout=args.layout,
        structures=args.structures,
        templates=args.templates,
        max_template_date=args.max_template_date,
        report=args.report,
    )
    return ingest_command(args.sources, args.store, settings)


def _store(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("store", help="look into a feature store (ls, show, verify) and rearrange stores (copy, merge, split, ...)")
    actions = sub.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, text in (("ls", "one line per chain"), ("verify", "check every byte against what was committed")):
        action = actions.add_parser(name, help=text)
        action.add_argument("store", help=_STORE)
        action.set_defaults(run=_run_store, action=name)
    _rearrange(actions)
    _show(actions)
    _cluster(actions)
    _leakage(actions)


def _run_store(args: argparse.Namespace) -> int:
    from . import commands

    return commands.verify(args.store) if args.action == "verify" else commands.ls(args.store)


def _rearrange(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    copy = actions.add_parser("copy", help="a store between a folder, one .zip file and S3")
    copy.add_argument("source", help=_STORE)
    copy.add_argument("destination", help="where to: s3://BUCKET/PREFIX, a path that ends in .zip, or a folder to be made")
    append = actions.add_parser("append", help="add all chains of another store; readers see none or all of them")
    append.add_argument("store", type=Path, help="the folder of the store that grows")
    append.add_argument("source", help=_STORE)
    merge = actions.add_parser("merge", help="join stores into a new one")
    merge.add_argument("sources", nargs="+", metavar="SOURCE", help=_STORE)
    merge.add_argument("destination", type=Path, help="folder to be made")
    merge.add_argument("--keep-first", action="store_true", help="take a chain that several stores have from the first one")
    split = actions.add_parser("split", help="divide a store's chains among new stores, evenly unless told how")
    split.add_argument("source", help=_STORE)
    split.add_argument("destinations", type=Path, nargs="+", metavar="DESTINATION", help="folders to be made")
    how = split.add_mutually_exclusive_group()
    how.add_argument("--list", type=Path, metavar="FILE", help="chain ids, one a line: these to the first, the rest to the second store")
    how.add_argument("--share", type=float, help="between 0 and 1: that many at random to the first, the rest to the second store")
    split.add_argument("--seed", type=int, default=0, help="of --share")
    compact = actions.add_parser("compact", help="the same chains in full parts, after many appends")
    compact.add_argument("source", help=_STORE)
    compact.add_argument("destination", type=Path, help="folder to be made")
    for name, action in (("copy", copy), ("append", append), ("merge", merge), ("split", split), ("compact", compact)):
        action.set_defaults(run=_run_rearrange, action=name)


def _run_rearrange(args: argparse.Namespace) -> int:
    from . import commands

    if args.action == "copy":
        return commands.copy(args.source, args.destination)
    if args.action == "append":
        return commands.append(args.store, args.source)
    if args.action == "merge":
        return commands.merge(args.sources, args.destination, args.keep_first)
    if args.action == "split":
        return commands.split(args.source, args.destinations, args.list, args.share, args.seed)
    return commands.compact(args.source, args.destination)


def _show(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    action = actions.add_parser("show", help="one chain: sequence, conservation, co-evolution beside the true contacts")
    action.add_argument("store", help=_STORE)
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
