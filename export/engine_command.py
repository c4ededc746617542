"""``foldline engine build | refit | gate | ls``: the engines of a bundle, each gated before anything folds with it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ..errors import FoldlineError
from .building import add_engine, gate_engine, refit_bundle
from .bundle import Bundle
from .command import order_of
from .config import ExportConfig
from .core import Core
from .engine_store import engines_of, find_engine
from .engines import why_not
from .gating import Gate
from .printing import engine_table, print_gate, stage_printer


def build_command(path: Path, config: ExportConfig) -> int:
    """Build the engine that ``config`` asks for into the bundle at ``path``; 0, or FoldlineError and the bundle as it was."""
    console = Console(highlight=False)
    bundle = Bundle.open(path)
    made = add_engine(Core.of(bundle), config.engine, order_of(config), Gate.of(bundle, config), stage_printer(console))
    print_gate(console, made.engine)
    console.print(f"[bold]{escape(str(made.engine.path))}[/]  {escape(made.engine.label)}", soft_wrap=True)
    if made.not_gated:
        console.print(f"where it runs, give: foldline engine gate {path} {made.engine.identity[:16]}", markup=False, soft_wrap=True)
    return 0


def gate_command(path: Path, name: str, config: ExportConfig) -> int:
    """Run the gate on the engine whose identity begins with ``name``; 0, or FoldlineError where it fails."""
    console = Console(highlight=False)
    bundle = Bundle.open(path)
    engine = gate_engine(Core.of(bundle), find_engine(path, name), Gate.of(bundle, config), stage_printer(console))
    print_gate(console, engine)
    return 0


def refit_command(path: Path, weights: Path, out: Path, config: ExportConfig) -> int:
    """The bundle at ``path`` under other weights as the new bundle ``out``; 0, or FoldlineError and no ``out``."""
    console = Console(highlight=False)
    bundle = Bundle.open(path)
    gate = Gate.of(bundle, config, timed=False)
    refitted, made, left_out = refit_bundle(bundle, weights, out, gate, stage_printer(console))
    for one in made:
        print_gate(console, one.engine)
    for text in left_out:
        console.print(f"left out: {text}", markup=False, soft_wrap=True)
    console.print(f"[bold]{escape(str(out))}[/]  bundle {refitted.identity[:16]}; {path} is as it was", soft_wrap=True)
    return 0


def list_command(path: Path) -> int:
    """Print the engines of the bundle at ``path``, and which of them fold here; 0, or FoldlineError for a damaged bundle."""
    bundle = Bundle.open(path)
    core, engines = Core.of(bundle), engines_of(path)
    if not engines:
        raise FoldlineError(f"{path} has no engine; give: foldline engine build {path} --kind onnxruntime")
    for engine in engines:
        engine.verify()
    Console(highlight=False).print(engine_table(engines, [why_not(core, engine) for engine in engines]))
    return 0
