"""``manifest.json``: the file that makes a folder a store. It is written last, names every other file, and vouches for itself."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ..errors import FoldlineError
from .digest import file_digest
from .schema import FORMAT, MANIFEST, SCHEMA_VERSION


def write_manifest(root: Path, counts: dict[str, int], content_hash: str) -> None:
    """Flush every file under ``root`` to disk, then write the manifest that lists them and flush that too."""
    files = {}
    for path in store_files(root):
        _flush(root / path)
        files[path] = {"bytes": (root / path).stat().st_size, "sha256": file_digest(root / path)}
    manifest = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "counts": counts, "content_hash": content_hash, "files": files}
    text = _canonical({**manifest, "manifest_sha256": _own_digest(manifest)})
    temporary = root / f"{MANIFEST}.new"
    temporary.write_text(text)
    _flush(temporary)
    temporary.rename(root / MANIFEST)
    for folder in (*(f for f in root.rglob("*") if f.is_dir()), root):
        _flush(folder)


def read_manifest(root: Path) -> dict[str, Any]:
    """The manifest of the store at ``root``; FoldlineError where there is no store, a damaged one or one of another schema."""
    path = root / MANIFEST
    if not path.is_file():
        what = "is not a folder" if root.is_file() else "holds no manifest.json" if root.is_dir() else "does not exist"
        raise FoldlineError(f"{root} is not a Foldline store: it {what}; make one with: foldline ingest SOURCE --store {root}")
    text = path.read_text(errors="replace")
    try:
        manifest = json.loads(text)
    except json.JSONDecodeError as error:
        raise FoldlineError(f"{path} is damaged ({error}); restore it from a copy or ingest again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FoldlineError(
            f'{root} is not a Foldline store: its manifest.json has no "format": "{FORMAT}"; give a folder made by foldline ingest'
        )
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise FoldlineError(
            f"{root} has store schema {version}, this Foldline reads schema {SCHEMA_VERSION}; "
            f"ingest the sources again, or use the Foldline version that wrote it"
        )
    stated = manifest.pop("manifest_sha256", None)
    if stated != _own_digest(manifest) or text != _canonical({**manifest, "manifest_sha256": stated}):
        raise FoldlineError(f"{path} is damaged: its text does not match the checksum inside it; restore it from a copy or ingest again")
    return manifest


def store_files(root: Path) -> list[str]:
    """Relative paths of all files under ``root`` but the manifest, sorted."""
    paths = (path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())
    return sorted(path for path in paths if path != MANIFEST)


def _canonical(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


def _own_digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(manifest).encode()).hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
