"""Reading source files: plain or gzip, judged by their name, with errors a user can act on."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from ...errors import FoldlineError

_GZIP_MAGIC = b"\x1f\x8b"


def read_source(path: Path) -> bytes:
    """The content of ``path``, unpacked when its name ends in .gz.

    Raises FoldlineError for a file that is missing, empty, not what its name says, cut off, or packed twice.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FoldlineError(f"{path.name} cannot be read: {error.strerror}; check the path and its permissions") from None
    if path.suffix.lower() == ".gz":
        data = _unpack(path, data)
    if data.startswith(_GZIP_MAGIC):
        state = "packed twice" if path.suffix.lower() == ".gz" else "packed but not named .gz"
        raise FoldlineError(f"{path.name} is gzip data inside ({state}); unpack it once or rename it")
    if not data.strip():
        raise FoldlineError(f"{path.name} is empty; fetch it again")
    return data


def _unpack(path: Path, data: bytes) -> bytes:
    if not data.startswith(_GZIP_MAGIC):
        raise FoldlineError(f"{path.name} is named .gz but is not gzip; drop the ending or compress it")
    try:
        return gzip.decompress(data)
    except (EOFError, zlib.error, OSError) as error:
        raise FoldlineError(f"{path.name} is cut off or damaged gzip ({error}); fetch it again") from None


def stem_and_kind(path: Path) -> tuple[str, str]:
    """'1ubq_A.cif.gz' -> ('1ubq_A', '.cif'): the name without its endings, and the ending before .gz in lower case."""
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    stem, dot, kind = name.rpartition(".")
    return (stem, f".{kind.lower()}") if dot and stem else (name, "")
