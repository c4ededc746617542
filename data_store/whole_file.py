"""Results appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import FoldlineError


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``path`` through a neighbour of the same folder, on disk before it takes the name."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, written as ``write_bytes`` does."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def write_out(out: Path, text: str) -> None:
    """What a command was told to leave at ``out``; folders above it are made. FoldlineError where it cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, text.encode())
    except OSError as error:
        raise FoldlineError(f"{out} cannot be written: {error.strerror}; give --out another path") from None
