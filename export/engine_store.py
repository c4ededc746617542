"""Engines inside a bundle: a folder each, sealed by its own ``engine.json``, added by one rename, refused where anything differs."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import FoldlineError
from ..whole_file import write_atomic
from .bundle import ENGINES, hash_of, json_text, sha256_of

SCHEMA_VERSION = 1
ENGINE, GATE, GATE_PAGE = "engine.json", "gate.json", "gate.html"
GATE_FILES = (GATE, GATE_PAGE)  # written after the engine was sealed, sealed by themselves
SHORT = 16  # characters of an identity that name its folder
FEWEST = 4  # characters of an identity that a user must give


@dataclass(frozen=True)
class Built:
    """What building left in an engine's folder.

    ``depends``: everything that the engine rests on, by name; it runs only where all of it is the same, and its hash is the engine's
    identity. ``details``: what its runner needs to know besides.
    """

    depends: Mapping[str, Any]
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Engine:
    """A sealed engine. ``gate`` is None until it has passed one."""

    path: Path
    facts: Mapping[str, Any]
    gate: Mapping[str, Any] | None

    @property
    def identity(self) -> str:
        """sha256 of what the engine depends on: equal identities are interchangeable engines."""
        return str(self.facts["identity"])

    @property
    def depends(self) -> Mapping[str, Any]:
        """See ``Built``."""
        return dict(self.facts["depends"])

    @property
    def details(self) -> Mapping[str, Any]:
        """See ``Built``."""
        return dict(self.facts["details"])

    @property
    def kind(self) -> str:
        """One of ``kinds.KINDS``."""
        return str(self.depends["kind"])

    @property
    def precision(self) -> str:
        """One of ``stages.PRECISIONS``."""
        return str(self.depends["precision"])

    @property
    def device(self) -> str:
        """What it runs on: "cpu", "cuda", or an ONNX Runtime provider's name."""
        return str(self.depends["device"])

    @property
    def label(self) -> str:
        """For people: kind, precision, device, the start of the identity."""
        return f"{self.kind} {self.precision} {self.device} {self.identity[:8]}"

    @property
    def limits(self) -> dict[str, tuple[int, int]]:
        """Dimension name -> (smallest, largest) size that it takes; free where missing."""
        return {name: (int(low), int(high)) for name, (low, high) in self.details.get("limits", {}).items()}

    @classmethod
    def read(cls, path: Path) -> Engine:
        """The engine in folder ``path``; its own files are not hashed yet (``verify``). FoldlineError where a seal is broken."""
        facts = _sealed(path / ENGINE)
        if facts["schema_version"] != SCHEMA_VERSION:
            raise FoldlineError(
                f"{path / ENGINE} has schema version {facts['schema_version']!r}, this Foldline reads {SCHEMA_VERSION}; "
                "remove its folder and give `foldline engine build` again"
            )
        gate = _sealed(path / GATE) if (path / GATE).exists() else None
        if gate is not None and gate["engine_identity"] != facts["identity"]:
            raise FoldlineError(f"{path / GATE} is the report of another engine; give `foldline engine gate` again")
        return cls(path, facts, gate)

    def verify(self) -> None:
        """Hash every file. FoldlineError for a missing, changed or unlisted one."""
        listed = dict(self.facts["files"]) | ({} if self.gate is None else dict(self.gate["files"]))
        found = {str(file.relative_to(self.path)) for file in self.path.rglob("*") if not file.is_dir()} - {ENGINE, GATE}
        for name in sorted(set(listed) | found):
            if name not in listed:
                raise FoldlineError(f"'{self.path / name}' is not part of the engine; remove the file, or build the engine again")
            if name not in found or sha256_of(self.path / name) != listed[name]:
                what = "is missing" if name not in found else "is not the file that was built (its sha256 differs)"
                raise FoldlineError(f"'{self.path / name}' {what}; copy the bundle again, or remove the engine's folder and build it again")


class Draft:
    """An engine that is being made in ``folder``, beside its place in the bundle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._start = time.monotonic()

    def seal(self, built: Built) -> Engine:
        """Write ``engine.json`` over the files that stand in the folder now. FoldlineError where the bundle has this very engine."""
        files = sorted(file for file in self.folder.rglob("*") if file.is_file())
        body = {
            "schema_version": SCHEMA_VERSION,
            "depends": json.loads(json.dumps(dict(built.depends))),
            "details": json.loads(json.dumps(dict(built.details))),
            "files": {str(file.relative_to(self.folder)): sha256_of(file) for file in files},
            "bytes": sum(file.stat().st_size for file in files),
            "build_seconds": round(time.monotonic() - self._start, 3),
            "created": datetime.now(UTC).isoformat(timespec="microseconds"),
            "identity": hash_of(built.depends),
        }
        _write_sealed(self.folder / ENGINE, body)
        engine = Engine.read(self.folder)
        place = self.folder.parent / engine.identity[:SHORT]
        if place.exists():
            raise FoldlineError(f"the bundle has the engine {engine.label} already ({place}); remove that folder to build it again")
        return engine


@contextmanager
def new_engine(bundle: Path) -> Iterator[Draft]:
    """A folder to build an engine of ``bundle`` in; what was sealed at the end of the block is renamed to its place.

    Any exception removes it. Raises FoldlineError where another process was faster with the same engine.
    """
    root = bundle / ENGINES
    partial = root / f".partial-{os.getpid()}-{time.monotonic_ns()}"
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise FoldlineError(f"cannot add an engine to {bundle}: {error.strerror}; give a bundle that can be written") from None
    try:
        yield Draft(partial)
        engine = Engine.read(partial)
        try:
            partial.rename(root / engine.identity[:SHORT])
        except OSError:
            raise FoldlineError(f"another process has added the engine {engine.label} to {bundle} meanwhile; nothing was lost") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not any(root.iterdir()):
            root.rmdir()


def engines_of(bundle: Path) -> tuple[Engine, ...]:
    """All engines of a bundle, the oldest first; those still being made are passed over. FoldlineError for a folder that is none."""
    root = bundle / ENGINES
    if not root.is_dir():
        return ()
    engines = [Engine.read(path) for path in root.iterdir() if not path.name.startswith(".")]
    return tuple(sorted(engines, key=lambda engine: (engine.facts["created"], engine.identity)))


def find_engine(bundle: Path, name: str) -> Engine:
    """The engine whose identity begins with ``name``. FoldlineError where none or several do."""
    engines = engines_of(bundle)
    found = [engine for engine in engines if len(name) >= FEWEST and engine.identity.startswith(name)]
    if len(found) != 1:
        rule = f"give at least {FEWEST} characters of one of: {'; '.join(e.identity[:SHORT] for e in engines) or 'none, it has no engine'}"
        raise FoldlineError(f"'{name}' names {'several engines' if found else 'no engine'} of {bundle}; {rule}")
    return found[0]


def seal_gate(report: Path, engine: Engine, folder: Path) -> Engine:
    """Put the gate's report in folder ``report`` (gate.json and its page) into the engine's ``folder``, sealed and bound to the engine."""
    pages = [name for name in GATE_FILES if name != GATE and (report / name).exists()]
    body = json.loads((report / GATE).read_text()) | {"engine_identity": engine.identity}
    body["files"] = {name: sha256_of(report / name) for name in pages}
    for name in pages:
        os.replace(report / name, folder / name)
    _write_sealed(folder / GATE, body)
    return Engine.read(folder)


def _write_sealed(path: Path, body: Mapping[str, Any]) -> None:
    write_atomic(path, json_text(dict(body) | {"seal": hash_of(body)}))


def _sealed(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode()
        content: dict[str, Any] = json.loads(text)
        body = {key: value for key, value in content.items() if key != "seal"}
        if content["seal"] == hash_of(body) and text == json_text(content):
            return body
    except (FileNotFoundError, NotADirectoryError):
        raise FoldlineError(f"{path.parent} is no engine: it has no {path.name}; remove it, or copy the bundle again") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise FoldlineError(f"'{path}' is not the file that was written (its hash differs); copy the bundle again, or build the engine again")
