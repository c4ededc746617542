"""Files appear whole or not at all: written beside their place, forced to the disk, then renamed."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import FoldlineError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write ``path`` meanwhile; it takes the name when the block ends. A block that raises leaves no trace.

    Processes of several hosts may write the same path: each writes a file of its own, and the last one counts.
    """
    beside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def named_file(path: Path, what: str, errors: type[Exception] = OSError) -> Iterator[Path]:
    """``whole_file`` for ``what`` a user asked for: an OSError, or one of ``errors``, is a FoldlineError that names both."""
    try:
        with whole_file(path) as beside:
            yield beside
    except (OSError, errors) as error:
        raise FoldlineError(f"cannot write {what} to {path}: {error}") from None


def write_atomic(path: Path, data: str | bytes) -> None:
    """Replace ``path`` with ``data``, text as UTF-8; a reader or a crash sees the old file or the new one. Makes the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as beside:
        beside.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON with sorted keys."""
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def check_out(out: Path) -> None:
    """FoldlineError where ``write_out`` would fail, to be told before the work. Makes the folders above ``out``."""
    try:
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        out.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(out.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise FoldlineError(f"{out} cannot be written: {error.strerror}; give --out another path") from None


def write_out(out: Path, text: str) -> None:
    """What a command was told to leave at ``out``. FoldlineError where it cannot be written."""
    try:
        write_atomic(out, text)
    except OSError as error:
        raise FoldlineError(f"{out} cannot be written: {error.strerror}; give --out another path") from None
