"""What an engine depends on, as facts; their hash is its identity. An engine whose facts do not hold here refuses to load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import FoldlineError

# What makes two engines interchangeable when it is equal. All else in engine.json (seconds, bytes) only describes.
IDENTITY = ("backend", "version", "architecture", "precision", "mode", "weights", "onnx", "profiles")
WHERE_PRESENT = ("plugins",)  # likewise, of engines that have them
MEANING = {
    "backend": "the engine's package",
    "version": "the package's version",
    "architecture": "the GPU",
    "precision": "the precision",
    "mode": "what becomes of the weights",
    "weights": "the weights' sha256",
    "onnx": "the ONNX graphs' sha256",
    "profiles": "the profiles",
    "plugins": "the plugins' version",
}


def identity_of(facts: Mapping[str, Any]) -> str:
    """sha256 over everything an engine depends on: equal identities are interchangeable engines."""
    keys = (*IDENTITY, *(key for key in WHERE_PRESENT if key in facts))
    return hashlib.sha256(json.dumps({key: facts[key] for key in keys}, sort_keys=True).encode()).hexdigest()


def check(facts: Mapping[str, Any], here: Mapping[str, Any], where: str) -> None:
    """Raise one FoldlineError that names every fact of ``here`` that differs from the engine's, and an identity that is not the facts'."""
    wrong = [difference for key, value in here.items() for difference in _differences(key, facts[key], value)]
    if facts["identity"] != identity_of(facts):
        wrong.append("its facts are not those that its identity was made of")
    if wrong:
        raise FoldlineError(
            f"engine {where} does not fit: {'; '.join(wrong)}; build it again (foldline engine build) or fold with another engine"
        )


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def runs_on(architecture: Mapping[str, Any], gpu: Mapping[str, str]) -> bool:
    """Whether an engine of this ``architecture`` fact runs on ``gpu`` (``backend.this_gpu``)."""
    if architecture["name"] is not None and architecture["name"] != gpu["name"]:
        return False
    return gpu["compute_capability"] in architecture["compute_capabilities"]


def check_gpu(facts: Mapping[str, Any], gpu: Mapping[str, str], where: str) -> None:
    """Raise FoldlineError when the engine was built for other GPUs than this one."""
    architecture = facts["architecture"]
    if not runs_on(architecture, gpu):
        built = ", ".join(architecture["compute_capabilities"]) + (f" ({architecture['name']} only)" if architecture["name"] else "")
        here = f"{gpu['compute_capability']} ({gpu['name']})"
        raise FoldlineError(
            f"engine {where} does not fit: {MEANING['architecture']} here has compute capability {here}, it was built for {built}; "
            "build it on this machine (foldline engine build) or fold with another engine"
        )


def _differences(key: str, built: Any, here: Any) -> list[str]:
    if key == "onnx":
        names = [name for name in sorted({*built, *here}) if built.get(name) != here.get(name)]
        return [f"stage '{name}' is another ONNX graph ({_short(built.get(name))} then, {_short(here.get(name))} now)" for name in names]
    return [] if built == here else [f"{MEANING[key]} was {_short(built)}, it is {_short(here)} here"]


def _short(value: Any) -> str:
    text = "absent" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text[:16] + "..." if len(text) == 64 else text
