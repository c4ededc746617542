"""Which engine of a bundle folds: the one that was named, or the best that runs here, has passed its gate, and takes the lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import FoldlineError
from .bundle import SHA256_LENGTH, Bundle
from .core import Core
from .engine_store import FEWEST, SHORT, Engine, engines_of
from .kinds import Kind, find_kind, kinds
from .runners import Runner

PRECISIONS = ("bf16", "fp16", "fp32")  # of two engines alike, the one that computes in less
CPU_ORDER = ("onnxruntime", "aotinductor", "torch-compile", "torch")  # on a CPU; on a GPU it is that of ``kinds``
WAY_OUT = "build one for this machine: foldline engine build {bundle} --kind KIND"


@dataclass(frozen=True)
class Choice:
    """The engine that was chosen, and why it and none before it."""

    engine: Engine
    reason: str


def choose(bundle: Bundle, wanted: str, longest: int = 0) -> Choice:
    """``wanted``: "auto", a kind, or the beginning of an identity; ``longest``: the N_res that it must take.

    Engines on a GPU are tried first, from TensorRT down to eager PyTorch, then those on the CPU. Raises FoldlineError with the reason of
    every refusal when none is left.
    """
    core, order = Core.of(bundle), list(kinds())
    engines = sorted(engines_of(bundle.path), key=lambda e: _rank(e, order))
    asked = [engine for engine in engines if wanted in ("auto", engine.kind) or _named(engine, wanted)]
    if not asked:
        has = "; ".join(engine.label for engine in engines) or "none"
        raise FoldlineError(f"engine '{wanted}' is not in {bundle.path}, which has: {has}; {WAY_OUT.format(bundle=bundle.path)}")
    refused: list[str] = []
    for engine in asked:
        reason = why_not(core, engine, longest)
        if reason is None:
            return Choice(engine, "; ".join([f"{engine.label} runs here and has passed its gate", *refused]))
        refused.append(f"not {engine.label}: {reason}")
    raise FoldlineError(f"no engine of {bundle.path} can fold this here: {'; '.join(refused)}; {WAY_OUT.format(bundle=bundle.path)}")


def why_not(core: Core, engine: Engine, longest: int = 0) -> str | None:
    """Why ``engine`` is not folded with here; None when it is."""
    if engine.gate is None:
        return f"it is not gated; give: foldline engine gate {core.path} {engine.identity[:SHORT]}"
    high = engine.limits.get("N_res", (0, longest))[1]
    if longest > high:
        return f"it takes at most {high} residues, not {longest}"
    return why_not_open(core, engine)


def why_not_open(core: Core, engine: Engine) -> str | None:
    """Why ``engine`` does not run on this machine: a package, the GPU, or something else that it depends on."""
    kind = find_kind(engine.kind)
    obstacle = kind.why_not(engine.device)
    return obstacle if obstacle is not None else _difference(kind, core, engine)


def open_engine(core: Core, engine: Engine) -> Runner:
    """The runner of an engine, gated or not. FoldlineError when a byte of it changed or it does not belong to this bundle and machine."""
    engine.verify()
    reason = why_not_open(core, engine)
    if reason is not None:
        raise FoldlineError(f"engine {engine.label}: {reason}")
    return find_kind(engine.kind).open(core, engine)


def _difference(kind: Kind, core: Core, engine: Engine) -> str | None:
    """The first thing that the engine depends on and that is different here and now."""
    try:
        here = dict(kind.depends(core, engine))
    except FoldlineError as error:
        return str(error)
    for name, there in engine.depends.items():
        if here.get(name) != there:
            return f"it was built for {_shown(name, there)}, and here is {_shown(name, here.get(name))}; build it again"
    return None


def _shown(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{name} " + ", ".join(f"{key} {_brief(item)}" for key, item in value.items())
    return f"{name} {_brief(value)}"


def _brief(value: Any) -> str:
    text = str(value)
    return text[:SHORT] if len(text) == SHA256_LENGTH else text


def _named(engine: Engine, wanted: str) -> bool:
    return len(wanted) >= FEWEST and engine.identity.startswith(wanted)


def _rank(engine: Engine, order: Sequence[str]) -> tuple[bool, int, int]:
    """GPU before CPU, then by kind, then by precision."""
    kinds_first = CPU_ORDER if engine.device == "cpu" else order
    return engine.device == "cpu", kinds_first.index(engine.kind), PRECISIONS.index(engine.precision)
