"""Where a store's files lie: a folder, or one zip file. ``place_of`` tells which, ``remote.py`` is the third kind, S3."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ..errors import FoldlineError

BLOCK = 1 << 22  # bytes read at once from a file that is read whole
_LOCAL_HEADER = 30
_HEADERS = "its zip headers differ from those that were written; every chain is affected, though its data may be whole"
SEAL_SIZE = 64  # hex digits of a SHA-256, the comment at the end of a store in one zip file


class Place(Protocol):
    """Read access to the files of one store, by relative name."""

    path: Path | str  # as the user wrote it, for messages

    def names(self) -> list[str]:
        """All files, sorted."""

    def read(self, name: str) -> bytes:
        """One file whole. FileNotFoundError where there is none."""

    def blocks(self, name: str, size: int) -> Iterator[bytes]:
        """One file, which should have ``size`` bytes, piece by piece; a longer or shorter one is given as it is."""

    def open(self, name: str) -> BinaryIO:
        """One file for reading at any position."""

    def entries(self, name: str) -> list[str]:
        """What the directory of a zip file lists."""

    def kvstore(self, name: str) -> dict[str, Any]:
        """tensorstore's address of one file."""

    def context(self) -> dict[str, Any]:
        """What tensorstore's context needs for it."""

    def faults(self) -> list[str]:
        """What is wrong with the place itself, outside its files."""


def place_of(path: Path | str) -> Place:
    """The place that ``path`` names: ``s3://bucket/prefix`` (also as a Path, which loses a slash), a zip file, or a folder."""
    text = str(path)
    if text.startswith("s3:/"):
        from .remote import S3Place

        return S3Place("s3://" + text.removeprefix("s3:").lstrip("/"))
    try:
        return ZipPlace(Path(path)) if zipfile.is_zipfile(path) else FolderPlace(Path(path))
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise FoldlineError(f"{path} is a damaged zip file ({error}); restore it from a copy") from error


class FolderPlace:
    """A folder of files."""

    def __init__(self, path: Path) -> None:
        self.path: Path | str = path
        self._root = path.absolute()

    def names(self) -> list[str]:
        return sorted(p.relative_to(self._root).as_posix() for p in self._root.rglob("*") if not p.is_dir() or p.is_symlink())

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def blocks(self, name: str, size: int) -> Iterator[bytes]:
        with self.open(name) as file:
            while block := file.read(BLOCK):
                yield block

    def open(self, name: str) -> BinaryIO:
        return (self._root / name).open("rb")

    def entries(self, name: str) -> list[str]:
        with self.open(name) as file:
            return zipfile.ZipFile(file).namelist()

    def kvstore(self, name: str) -> dict[str, Any]:
        return {"driver": "file", "path": str(self._root / name)}

    def context(self) -> dict[str, Any]:
        return {}

    def faults(self) -> list[str]:
        return []


class ZipPlace:
    """One zip file whose entries are the store's files, uncompressed."""

    def __init__(self, path: Path) -> None:
        self.path: Path | str = path
        self._file = path.absolute()
        with zipfile.ZipFile(self._file) as archive:
            self._entries = {entry.filename: entry for entry in archive.infolist() if not entry.is_dir()}

    def names(self) -> list[str]:
        return sorted(self._entries)

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def blocks(self, name: str, size: int) -> Iterator[bytes]:
        with self.open(name) as file:
            while block := file.read(BLOCK):
                yield block

    def open(self, name: str) -> BinaryIO:
        if (entry := self._entries.get(name)) is None:
            raise FileNotFoundError(f"{self.path} has no entry {name}")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{self.path} holds {name} compressed; make it with: foldline store copy FOLDER {self.path}")
        file = self._file.open("rb")
        try:
            return io.BufferedReader(_Window(file, _data_start(file, entry), entry.file_size), BLOCK)
        except BaseException:
            file.close()
            raise

    def entries(self, name: str) -> list[str]:
        with self.open(name) as file:
            return zipfile.ZipFile(file).namelist()

    def kvstore(self, name: str) -> dict[str, Any]:
        return {"driver": "zip", "base": {"driver": "file", "path": str(self._file)}, "path": name}

    def context(self) -> dict[str, Any]:
        return {}

    def faults(self) -> list[str]:
        try:
            with zipfile.ZipFile(self._file) as archive:
                seal, expected = archive.comment.decode(errors="replace"), zip_seal(self._file)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            return [f"{self.path}: {_HEADERS} ({error})"]
        if len(seal) != SEAL_SIZE:
            return [f"{self.path} has no seal, so its zip headers cannot be checked; make it with: foldline store copy FOLDER {self.path}"]
        return [] if seal == expected else [f"{self.path}: {_HEADERS}"]


def zip_seal(path: Path) -> str:
    """SHA-256 of everything in a sealed zip file but the entries' data (which the store's manifest vouches for) and the seal."""
    digest, at = hashlib.sha256(), 0
    with path.open("rb") as file, zipfile.ZipFile(path) as archive:
        end = file.seek(0, os.SEEK_END) - SEAL_SIZE
        spans = [(_data_start(file, entry), entry.file_size) for entry in archive.infolist()]
        for start, size in [*sorted(spans), (end, 0)]:
            file.seek(at)
            digest.update(file.read(max(0, start - at)))
            at = start + size
    return digest.hexdigest()


def _data_start(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Where an entry's data begin. ValueError when the entry's header is not where the directory says."""
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or not header.startswith(b"PK\x03\x04"):
        raise ValueError(f"entry {entry.filename} is not where the directory says")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return int(entry.header_offset) + _LOCAL_HEADER + int(name_length) + int(extra_length)


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """A full disk or a lacking permission becomes a FoldlineError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise FoldlineError(f"{path} cannot be written: {error.strerror or error}; free space or give another path") from error


class _Window(io.RawIOBase):
    """A range of a file as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
