"""A wall clock that is set forward and back for one job alone; ``clock.c`` is preloaded into all its processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


class Clock:
    """Compiled into ``folder``. What files' dates say stays with the host's clock, and waits that have begun are not cut short."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._library, self._file = folder / "clock.so", folder / "offset"
        self._file.write_bytes(bytes(8))
        self.offset = 0  # seconds
        subprocess.run(
            [compiler(), "-O2", "-shared", "-fPIC", "-o", str(self._library), str(SOURCE), "-ldl"], check=True, capture_output=True
        )

    @property
    def environment(self) -> dict[str, str]:
        """What a process must be started with to live by this clock."""
        return {"LD_PRELOAD": str(self._library.resolve()), "FOLDLINE_CHAOS_CLOCK": str(self._file.resolve())}

    def jump(self, seconds: int) -> None:
        """Set the clock of all processes that live by it; 8 bytes are seen whole."""
        self.offset += seconds
        with self._file.open("r+b") as file:
            file.write(self.offset.to_bytes(8, sys.byteorder, signed=True))


def compiler() -> str:
    """The C compiler, "" where there is none."""
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), "")


def absent() -> str:
    """Why there can be no such clock here, or ""."""
    if sys.platform != "linux":
        return "it needs Linux"
    return "" if compiler() else "it needs a C compiler (cc) to build the clock that is moved"
