"""The sub-commands of `export` for the script: argparse alone here, each command one lazy import and one call."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import ExportConfig

KINDS = ("onnxruntime", "aotinductor", "tensorrt", "tensorrt_rtx", "torch", "torch-compile")


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `export`, `engine`, `fold`."""
    _export(commands)
    _engine(commands)
    _fold(commands)


def _export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("export", help="trained weights -> ONNX -> engine -> gated bundle")
    sub.add_argument("--run", type=Path, required=True, dest="run_dir", help="run directory of `foldline train`")
    sub.add_argument("--out", type=Path, required=True, help="bundle to create (must not exist)")
    sub.add_argument("--engine", choices=("auto", *KINDS), help="kind of the bundle's first engine; default: export.engine of the config")
    _ordered(sub)
    _configured(sub)
    sub.set_defaults(run=_run_export)


def _configured(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--config", type=Path, help="TOML file with a table [export], see docs/export.md")
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="e.g. export.gate.rmsd=0.05")
    sub.add_argument("--proteins", type=Path, help="folder of A3M files with NAME.cif|.pdb, for length bins that the run's store lacks")


def _ordered(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="default: export.precision, fp32")
    sub.add_argument("--device", choices=("auto", "cpu", "cuda", "tensorrt"), help="default: export.device, the best that works here")


def _configuration(args: argparse.Namespace) -> ExportConfig:
    from .config import load_export_config

    given = {
        "gate.proteins": None if args.proteins is None else str(args.proteins),
        "engine": getattr(args, "engine", None),
        "precision": getattr(args, "precision", None),
        "device": getattr(args, "device", None),
        "lengths": getattr(args, "profiles", None),
    }
    overrides = [f"export.{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    return load_export_config(args.config, (*args.overrides, *overrides))


def _run_export(args: argparse.Namespace) -> int:
    from .command import export_command

    return export_command(args.run_dir, args.out, _configuration(args))


def _engine(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    engine = commands.add_parser("engine", help="the engines of a bundle: build, refit with other weights, gate, bench, list")
    several = engine.add_subparsers(required=True, metavar="ACTION")
    sub = several.add_parser("build", help="another engine into a bundle, gated where it runs here")
    sub.add_argument("bundle", type=Path, metavar="BUNDLE")
    sub.add_argument("--kind", choices=KINDS, required=True, dest="engine")
    sub.add_argument(
        "--profiles", type=_lengths, metavar="N,N,...", help="N_res that TensorRT tunes for; default: export.lengths, 128,256,384,512"
    )
    _ordered(sub)
    _configured(sub)
    sub.set_defaults(run=_run_build)
    sub = several.add_parser("refit", help="the same engines under other weights, as a new bundle")
    sub.add_argument("bundle", type=Path, metavar="BUNDLE")
    sub.add_argument("--weights", type=Path, required=True, help="safetensors of the same network: RUN/weights/ema.safetensors")
    sub.add_argument("--out", type=Path, required=True, help="bundle to create (must not exist)")
    _configured(sub)
    sub.set_defaults(run=_run_refit)
    sub = several.add_parser("gate", help="compare an engine with PyTorch, on the machine that it runs on")
    sub.add_argument("bundle", type=Path, metavar="BUNDLE")
    sub.add_argument("identity", metavar="ENGINE", help="the beginning of its identity, see `foldline engine ls`")
    _configured(sub)
    sub.set_defaults(run=_run_gate)
    sub = several.add_parser("bench", help="speed and memory of a gated engine beside PyTorch, by length, into its report")
    sub.add_argument("bundle", type=Path, metavar="BUNDLE")
    sub.add_argument("identity", metavar="ENGINE", nargs="?", default="", help="the beginning of its identity; default: the one that folds")
    _configured(sub)
    sub.set_defaults(run=_run_bench)
    sub = several.add_parser("ls", help="a bundle's engines, and which of them fold here")
    sub.add_argument("bundle", type=Path, metavar="BUNDLE")
    sub.set_defaults(run=_run_list)


def _lengths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of lengths like 128,256,384,512") from None


def _run_build(args: argparse.Namespace) -> int:
    from .engine_command import build_command

    return build_command(args.bundle, _configuration(args))


def _run_refit(args: argparse.Namespace) -> int:
    from .engine_command import refit_command

    return refit_command(args.bundle, args.weights, args.out, _configuration(args))


def _run_gate(args: argparse.Namespace) -> int:
    from .engine_command import gate_command

    return gate_command(args.bundle, args.identity, _configuration(args))


def _run_bench(args: argparse.Namespace) -> int:
    from .bench_command import bench_command

    return bench_command(args.bundle, args.identity, _configuration(args))


def _run_list(args: argparse.Namespace) -> int:
    from .engine_command import list_command

    return list_command(args.bundle)


def _fold(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser("fold", help="fold proteins with a bundle: mmCIF, PAE json, HTML report")
    sub.add_argument("source", type=Path, help="folder or file: A3M, with NAME.cif|.pdb beside it for comparison")
    sub.add_argument("--bundle", type=Path, required=True)
    sub.add_argument("--out", type=Path, required=True, help="folder for the results (must not hold any)")
    sub.add_argument("--engine", default="auto", help="a kind, the beginning of an engine's identity, or auto: the best that runs here")
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
        args.source,
        args.bundle,
        args.out,
        passes,
        args.seed,
        engine=args.engine,
        templates=args.templates,
        max_template_date=args.max_template_date,
    )
