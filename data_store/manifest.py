"""``manifest.json``: the file that makes a folder a store. It is written last, names every other file, and vouches for itself."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import FoldlineError
from .digest import file_digest
from .places import FolderPlace, Place
from .schema import FORMAT, MANIFEST, SCHEMA_VERSION


@dataclass(frozen=True)
class StoreFile:
    """One file of a store; ``counts`` where it is a part."""

    file: str  # relative to the store
    bytes: int
    sha256: str
    counts: dict[str, int] | None = None


@dataclass(frozen=True)
class Manifest:
    """What a store consists of. ``previous_index`` serves readers that opened the store before the last append."""

    schema_version: int
    generation: int
    counts: dict[str, int]  # chains, residues, msas, msa_cells, templates
    content_hash: str
    index: StoreFile
    previous_index: StoreFile | None
    parts: tuple[StoreFile, ...]

    def files(self) -> list[StoreFile]:
        """Every file but the manifest."""
        return [self.index, *([self.previous_index] if self.previous_index else []), *self.parts]


def describe_file(root: Path, file: str, sha256: str = "", counts: dict[str, int] | None = None) -> StoreFile:
    """Size and SHA-256 (computed unless given) of the file ``root/file``."""
    return StoreFile(file, (root / file).stat().st_size, sha256 or file_digest(root / file), counts)


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Flush the folders, then put the manifest in place of the one there is, flushed too. The files it lists must be on disk already."""
    for folder in (*(f for f in root.rglob("*") if f.is_dir()), root):
        flush(folder)
    temporary = root / f"{MANIFEST}.new"
    temporary.write_text(encode_manifest(manifest))
    flush(temporary)
    temporary.rename(root / MANIFEST)
    flush(root)


def encode_manifest(manifest: Manifest) -> str:
    """The text of manifest.json."""
    data = {"format": FORMAT, **asdict(manifest)}
    return _canonical({**data, "manifest_sha256": _own_digest(data)})


def read_manifest(place: Place) -> Manifest:
    """The manifest of the store at ``place``; FoldlineError where there is no store, a damaged one or one of another schema."""
    try:
        text = place.read(MANIFEST).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise FoldlineError(
            f"{place.path} is not a Foldline store: it {_lacks(place)}; make one with: foldline ingest SOURCE --store {place.path}"
        ) from None
    except (OSError, ValueError) as error:
        raise FoldlineError(f"{place.path}/{MANIFEST} cannot be read ({error}); restore it from a copy or ingest again") from None
    where = f"{place.path}/{MANIFEST}"
    try:
        data = json.loads(text)
    except ValueError as error:
        raise FoldlineError(f"{where} is damaged ({error}); restore it from a copy or ingest again") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise FoldlineError(
            f'{place.path} is not a Foldline store: its manifest.json has no "format": "{FORMAT}"; give a store made by foldline ingest'
        )
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise FoldlineError(
            f"{place.path} has store schema {version}, this Foldline reads schema {SCHEMA_VERSION}; "
            f"ingest the sources again, or use the Foldline version that wrote it"
        )
    stated = data.pop("manifest_sha256", None)
    if stated != _own_digest(data) or text != _canonical({**data, "manifest_sha256": stated}):
        raise FoldlineError(f"{where} is damaged: its text does not match the checksum inside it; restore it from a copy or ingest again")
    return _decode(data)


def flush(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _decode(data: dict[str, Any]) -> Manifest:
    fields = {name: value for name, value in data.items() if name != "format"}
    previous = fields["previous_index"]
    return Manifest(
        **{
            **fields,
            "index": StoreFile(**fields["index"]),
            "previous_index": StoreFile(**previous) if previous else None,
            "parts": tuple(StoreFile(**part) for part in fields["parts"]),
        }
    )


def _lacks(place: Place) -> str:
    if not isinstance(place, FolderPlace):
        return "holds no manifest.json"
    root = Path(place.path)
    if root.is_file() and root.suffix == ".zip":
        return "is no whole zip file, so restore it from a copy if it was one"
    return "is not a folder" if root.is_file() else "holds no manifest.json" if root.is_dir() else "does not exist"


def _canonical(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


def _own_digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(manifest).encode()).hexdigest()
