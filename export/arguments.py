"""The sub-commands of `export` for the script: argparse alone here, each command one lazy import and one call."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import ExportConfig


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `export`, `fold`."""
    _export(commands)
    _fold(commands)


def _export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("export", help="trained weights -> ONNX -> engine -> gated bundle")
    sub.add_argument("--run", type=Path, required=True, dest="run_dir", help="run directory of `foldline train`")
    sub.add_argument("--out", type=Path, required=True, help="bundle to create (must not exist)")
    sub.add_argument("--engine", choices=("auto", "onnxruntime", "tensorrt", "tensorrt_rtx"), help="default: export.engine of the config")
    _configured(sub)
    sub.set_defaults(run=_run_export)


def _configured(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--config", type=Path, help="TOML file with a table [export], see docs/export.md")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="e.g. export.gate.rmsd=0.05")
    sub.add_argument("--proteins", type=Path, help="folder of A3M files with NAME.cif|.pdb, for length bins that the run's store lacks")


def _configuration(args: argparse.Namespace) -> ExportConfig:
    from .config import load_export_config

    given = [f"export.gate.proteins={json.dumps(str(args.proteins))}"] if args.proteins is not None else []
    return load_export_config(args.config, (*args.overrides, *given))


def _run_export(args: argparse.Namespace) -> int:
    from .command import export_command

    config = _configuration(args)
    return export_command(args.run_dir, args.out, config if args.engine is None else replace(config, engine=args.engine))


def _fold(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("fold", help="fold proteins with a bundle: mmCIF, PAE json, HTML report")
    sub.add_argument("source", type=Path, help="folder or file: A3M, with NAME.cif|.pdb beside it for comparison")
    sub.add_argument("--bundle", type=Path, required=True)
    sub.add_argument("--out", type=Path, required=True, help="folder for the results (must not hold any)")
    sub.add_argument("--templates", type=Path, help="folder of PDB entries for the hits in NAME.hhr or NAME_pdb_hits.sto beside NAME.a3m")
    sub.add_argument("--max-template-date", default="", help="templates released later are not used (ISO date)")
    sub.add_argument("--recycles", type=int, default=3, help="passes after the first")
    sub.add_argument("--tolerance", type=float, default=0.0, help="stop recycling when Cα distances change by no more than this many Å")
    sub.add_argument("--seed", type=int, default=0)
    sub.set_defaults(run=_run_fold)


def _run_fold(args: argparse.Namespace) -> int:
    from .fold import Passes, fold_command

    passes = Passes(args.recycles, args.tolerance)
    return fold_command(
        args.source, args.bundle, args.out, passes, args.seed, templates=args.templates, max_template_date=args.max_template_date
    )
