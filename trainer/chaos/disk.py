"""A small file system in memory that can be filled: the run directory of the disturbed run lies on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")  # in which any user may mount, seen by nobody else
INSIDE = "FOLDLINE_CHAOS_INSIDE"  # set there


def become_mounter(arguments: Sequence[str]) -> None:
    """Where this user may not mount, go on as ``foldline ARGUMENTS`` in a namespace where he may; returns where that is not needed, or
    where the system has no such namespaces.
    """
    if os.geteuid() == 0 or INSIDE in os.environ or not shutil.which(NAMESPACE[0]):
        return
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0:
        sys.stdout.flush()
        os.environ[INSIDE] = "1"
        os.execvp(NAMESPACE[0], [*NAMESPACE, sys.executable, "-m", "foldline.cli", *arguments])


class SmallDisk:
    """A tmpfs at ``place``."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._filler = place / "filler"

    def mount(self, size: int) -> str:
        """Make it, ``size`` bytes; why that cannot be, or ""."""
        self.place.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.place)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            return str(error)
        return f"no file system can be mounted: {done.stderr.strip() or 'root is needed'}" if done.returncode else ""

    def fill(self) -> None:
        """Take all room. To be called again and again: the job deletes files meanwhile."""
        free = shutil.disk_usage(self.place).free
        if free:
            with self._filler.open("ab") as file, suppress(OSError):  # the job took some of it in this moment
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)

    def free(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Put the files that are on it in its place."""
        kept = self.place.with_name(f"{self.place.name}.kept")
        shutil.copytree(self.place, kept, symlinks=True)
        self.drop()
        self.place.rmdir()
        kept.rename(self.place)

    def drop(self) -> None:
        """Unmount, files and all."""
        subprocess.run(["umount", "--lazy", str(self.place)], check=False, capture_output=True)
