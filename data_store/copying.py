"""`foldline store copy`: a store between a folder, one zip file and S3. The manifest goes last, the copy is verified."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import FoldlineError
from .arrays import zip_entry
from .manifest import StoreFile, flush
from .places import SEAL_SIZE, place_of, writing, zip_seal
from .remote import S3Place
from .schema import MANIFEST
from .store import Store
from .writer import refuse_existing

_S3_PUT_LIMIT = 5 << 30  # bytes of one PUT request


def copy_store(source: Path | str, destination: Path | str) -> Store:
    """Copy the store at ``source`` to ``destination``: s3://bucket/prefix, a path that ends in .zip, or a folder to be made.

    FoldlineError, with nothing at the destination that passes for a store, when the source is damaged or the destination exists.
    """
    store = Store.open(source)
    if str(destination).startswith("s3:/"):
        place = place_of(destination)
        assert isinstance(place, S3Place)
        _to_s3(store, place)
    else:
        path = Path(destination)
        refuse_existing(path)
        building = path.absolute().parent / f".{path.name}.copy"
        with writing(path):
            path.absolute().parent.mkdir(parents=True, exist_ok=True)
            _clear(building)
            try:
                (_to_zip if path.suffix == ".zip" else _to_folder)(store, building)
                _verify(building, path)
                refuse_existing(path)
                building.rename(path.absolute())
                flush(path.absolute().parent)
            finally:
                _clear(building)
    return Store.open(destination)


def fetch(store: Store, file: StoreFile) -> Iterator[bytes]:
    """A file of a store piece by piece; FoldlineError at its end when it was not what the manifest says."""
    size, digest = 0, hashlib.sha256()
    try:
        for block in store.place.blocks(file.file, file.bytes):
            size += len(block)
            digest.update(block)
            yield block
    except (FileNotFoundError, ValueError) as error:
        raise FoldlineError(f"{store.path}: {file.file} cannot be read ({error}); run: foldline store verify {store.path}") from None
    if size != file.bytes or digest.hexdigest() != file.sha256:
        raise FoldlineError(f"{store.path}: {file.file} is not what was committed; run: foldline store verify {store.path}")


def _to_folder(store: Store, root: Path) -> None:
    for file in store.manifest.files():
        path = root / file.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as target:
            for block in fetch(store, file):
                target.write(block)
            target.flush()
            os.fsync(target.fileno())
        flush(path.parent)
    (root / MANIFEST).write_bytes(store.place.read(MANIFEST))
    flush(root / MANIFEST)
    flush(root)


def _to_zip(store: Store, path: Path) -> None:
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
        for file in store.manifest.files():
            entry = zip_entry(file.file)
            entry.file_size = file.bytes  # so that 64-bit sizes are used where they are needed
            with archive.open(entry, "w") as target:
                for block in fetch(store, file):
                    target.write(block)
        archive.writestr(zip_entry(MANIFEST), store.place.read(MANIFEST))
        archive.comment = b"0" * SEAL_SIZE
    with path.open("r+b") as sealed:
        sealed.seek(-SEAL_SIZE, os.SEEK_END)
        sealed.write(zip_seal(path).encode())
    flush(path)


def _to_s3(store: Store, place: S3Place) -> None:
    if MANIFEST in place.names():
        raise FoldlineError(f"{place.path} already holds a store, and a store is never overwritten: remove it or give another prefix")
    for file in store.manifest.files():
        if file.bytes > _S3_PUT_LIMIT:
            raise FoldlineError(f"{file.file} has {file.bytes} bytes, S3 takes 5 GiB at once; make parts of fewer chains")
        place.write(file.file, b"".join(fetch(store, file)))
    place.write(MANIFEST, store.place.read(MANIFEST))
    _verify(place.path, place.path)


def _verify(built: Path | str, path: Path | str) -> None:
    if problems := Store.open(built).verify():
        raise FoldlineError(f"the copy {path} differs from its source: {problems[0]}; copy again to another path")


def _clear(building: Path) -> None:
    """Remove what a copy that was killed has left."""
    if building.is_dir():
        shutil.rmtree(building)
    building.unlink(missing_ok=True)
