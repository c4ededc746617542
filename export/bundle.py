"""A bundle: one directory with everything that folds, its manifest, and a hash of every byte. It appears whole or not at all.

Its core (weights, graphs) never changes. Engines stand in ``engines/``, each sealed by itself (``engine_store``), and may be added later.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FoldlineError

SCHEMA_VERSION = 2
MANIFEST, WEIGHTS, GRAPHS, ENGINES = "manifest.json", "weights.safetensors", "graphs", "engines"
BLOCK = 1 << 20
SHA256_LENGTH = 64  # characters


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: every file of its core was hashed and stands as written. ``identity`` is the manifest's own hash and names it."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """sha256 of the manifest, which holds the hash of every other file of the core."""
        return str(self.manifest["identity"])

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Read a bundle and verify its core. FoldlineError for a missing, changed or unlisted file, and for another schema version."""
        manifest = _read_manifest(path)
        listed = manifest["files"]
        found = core_files(path) - {MANIFEST}
        for name, expected in sorted(listed.items()):
            if name not in found:
                raise FoldlineError(f"bundle {path}: '{name}' is missing; copy the bundle again or export it again")
            if sha256_of(path / name) != expected:
                raise FoldlineError(
                    f"bundle {path}: '{name}' is not the file that was exported (its sha256 differs); copy or export it again"
                )
        extra = sorted(found - set(listed))
        if extra:
            raise FoldlineError(f"bundle {path}: '{extra[0]}' is not part of it; remove the file, or export the bundle again")
        return cls(path, manifest)


@contextmanager
def new_bundle(out: Path, contents: dict[str, Any]) -> Iterator[Path]:
    """A temporary folder beside ``out`` to fill; at the end of the block it is sealed with a manifest and renamed to ``out``.

    ``contents`` becomes part of the manifest and may grow inside the block. Any exception removes the folder. Raises FoldlineError when
    ``out`` exists or cannot be created.
    """
    if out.exists() or out.is_symlink():
        raise FoldlineError(f"{out} exists; a bundle is never overwritten: give another --out or remove it first")
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise FoldlineError(f"cannot create a bundle in {out.parent}: {error.strerror}; give a folder that can be written") from None
    try:
        yield partial
        _seal(partial, contents)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def core_files(folder: Path) -> set[str]:
    """Names of all files of a bundle but those of its engines."""
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir()}
    return {name for name in files if not name.startswith(f"{ENGINES}/")}


def json_text(content: Mapping[str, Any]) -> str:
    """The one form in which sealed JSON is written: a changed blank is a change."""
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def hash_of(content: Any) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _seal(folder: Path, contents: Mapping[str, Any]) -> None:
    files = {name: sha256_of(folder / name) for name in sorted(core_files(folder))}
    body = {"schema_version": SCHEMA_VERSION, **contents, "files": files}
    (folder / MANIFEST).write_text(json_text(body | {"identity": hash_of(body)}))


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        text = file.read_bytes().decode()
        manifest = json.loads(text)
        version = manifest["schema_version"]
    except (FileNotFoundError, NotADirectoryError):
        raise FoldlineError(f"{path} is no bundle: it has no {MANIFEST}; make one with `foldline export`") from None
    except (ValueError, KeyError, TypeError):
        raise FoldlineError(f"bundle {path}: '{MANIFEST}' is not readable; copy the bundle again or export it again") from None
    if version != SCHEMA_VERSION:
        raise FoldlineError(
            f"bundle {path}: '{MANIFEST}' has schema version {version!r}, this Foldline reads {SCHEMA_VERSION}; "
            + _way_out(manifest, version)
        )
    body = {key: value for key, value in manifest.items() if key != "identity"}
    # The text is compared too: a changed blank would leave the parsed content equal.
    if manifest.get("identity") != hash_of(body) or text != json_text(manifest):
        raise FoldlineError(f"bundle {path}: '{MANIFEST}' is not the file that was exported (its hash differs); copy or export it again")
    return dict(manifest)


def _way_out(manifest: Mapping[str, Any], version: Any) -> str:
    """Bundles of every schema name the run that they were made of."""
    again = f"foldline export --run {manifest.get('run', 'RUN')} --out NEW"
    if isinstance(version, int) and version > SCHEMA_VERSION:
        return f"fold with a newer Foldline, or export the weights again with this one: {again}"
    return f"it was made by an older Foldline: fold with that one, or make a new bundle: {again}"
