"""Engines built into a bundle, and a bundle's engines under new weights: nothing gets its place before it has passed the gate."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import FoldlineError
from ..model.weights import check_names, read_weights
from .bundle import ENGINES, GRAPHS, MANIFEST, WEIGHTS, Bundle, core_files, new_bundle, sha256_of
from .core import Core
from .engine_store import SHORT, Engine, engines_of, new_engine
from .engines import open_engine, why_not_open
from .gating import Gate
from .kinds import Order, Say, find_kind, settle
from .weight_file import WEIGHTS_FILE, write_weights


@dataclass(frozen=True)
class Made:
    """An engine, and why it could not be gated here ("" when it was)."""

    engine: Engine
    not_gated: str


def add_engine(core: Core, kind_name: str, order: Order, gate: Gate, say: Say) -> Made:
    """Build an engine into the bundle of ``core`` and gate it. FoldlineError, and no engine, where it fails either.

    Where this machine can build but not run it, the engine is kept without a gate, and nothing folds with it until it has passed one.
    """
    kind = find_kind(kind_name)
    order = settle(kind, order)
    with new_engine(core.path) as draft:
        say(f"engine {kind.name} {order.precision} on {order.device}")
        engine = draft.seal(kind.build(core, order, draft.folder, say))
        reason = _gated(core, engine, gate, say)
    return Made(_placed(core, engine), reason)


def gate_engine(core: Core, engine: Engine, gate: Gate, say: Say) -> Engine:
    """Run the gate on an engine that stands in its bundle. FoldlineError where it fails; an earlier report is then kept."""
    return gate.run(core, engine, open_engine(core, engine), say)


def refit_bundle(bundle: Bundle, weights: Path, out: Path, gate: Gate, say: Say) -> tuple[Bundle, list[Made], list[str]]:
    """A new bundle ``out`` with ``bundle``'s graphs and engines under ``weights``; what does not change is shared by hard link.

    Every engine is refitted and, where it runs here, gated against PyTorch in float32 with the new weights; one that does not run here
    waits for its gate as after a build. Returns the bundle, its engines, and for each engine that was left out why. Raises FoldlineError,
    and leaves no bundle, when the weights are not this network's, when no engine can be refitted, and when one fails its gate.
    """
    old = Core.of(bundle)
    about = _checked(old, weights)
    contents = {key: value for key, value in bundle.manifest.items() if key not in ("identity", "files", "schema_version")}
    contents["weights"] = {"sha256": sha256_of(weights)} | about
    contents["refitted_from"] = bundle.identity
    made: list[Made] = []
    left_out: list[str] = []
    with new_bundle(out, contents) as folder:
        _new_core(old.path, weights, folder)
        core = replace(old, path=folder, weights_sha256=contents["weights"]["sha256"])
        for engine in engines_of(bundle.path):
            reason = _why_not_refit(old, engine)
            if reason is None:
                made.append(_refit(core, engine, gate, say))
            else:
                left_out.append(f"{engine.label}: {reason}")
        if not made:
            why = "; ".join(left_out) or "it has none"
            raise FoldlineError(f"no engine of {bundle.path} can be refitted here, so {out} was not made: {why}")
    return Bundle.open(out), [replace(one, engine=Engine.read(out / ENGINES / one.engine.path.name)) for one in made], left_out


def _why_not_refit(core: Core, engine: Engine) -> str | None:
    kind = find_kind(engine.kind)
    runs_here = kind.why_not(engine.device) is None
    return kind.why_not_refit(engine) or (why_not_open(core, engine) if runs_here else None)


def _refit(core: Core, old: Engine, gate: Gate, say: Say) -> Made:
    old.verify()
    kind = find_kind(old.kind)
    with new_engine(core.path) as draft:
        engine = draft.seal(kind.refit(core, old, draft.folder))
        say(f"{old.label} is refitted: {engine.label}")
        reason = _gated(core, engine, gate, say)
    return Made(_placed(core, engine), reason)


def _gated(core: Core, engine: Engine, gate: Gate, say: Say) -> str:
    """Run the gate where the engine runs; else say why it does not, and return that."""
    reason = find_kind(engine.kind).why_not(engine.device)
    if reason is None:
        gate.run(core, engine, open_engine(core, engine), say)
        return ""
    say(f"not gated: {reason}")
    return reason


def _placed(core: Core, engine: Engine) -> Engine:
    return Engine.read(core.path / ENGINES / engine.identity[:SHORT])


def _checked(core: Core, weights: Path) -> dict[str, str]:
    """The metadata of a safetensors file that holds this very network; FoldlineError that names what does not fit first."""
    tensors, about = read_weights(weights)
    expected = {name: tuple(tensor.shape) for name, tensor in core.network().state_dict().items()}
    check_names(expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, str(weights))
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise FoldlineError(f"{weights}: '{name}' has values that are not finite; give weights of a training that did not fail")
    return about


def _new_core(old: Path, weights: Path, folder: Path) -> None:
    """The files of the core in ``folder``: linked where they stay, written where they hold weights."""
    tensors = read_weights(weights)[0]
    for name in sorted(core_files(old) - {MANIFEST, WEIGHTS}):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if Path(name).name != WEIGHTS_FILE:
            link(old / name, folder / name)
    for graphs in sorted((folder / GRAPHS).iterdir()):
        write_weights(graphs, tensors)
    shutil.copyfile(weights, folder / WEIGHTS)


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the two lie on different file systems."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
