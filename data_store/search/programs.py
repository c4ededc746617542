"""Search programs of the system: found, asked for their version, run with a log and a time limit, and never left behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ...errors import FoldlineError

_PACKAGES = {"jackhmmer": "hmmer", "hhblits": "hhsuite", "hhsearch": "hhsuite", "mmseqs": "mmseqs2"}
_STOPS = (signal.SIGINT, signal.SIGTERM)
_TAIL = 10  # lines of a failed program's output that its error shows


def find_program(name: str) -> str:
    """The full path of a program. FoldlineError where it is not installed, with the Debian package that brings it."""
    path = shutil.which(name)
    if path is None:
        raise FoldlineError(
            f"the program {name} is not on PATH; install the system package {_PACKAGES[name]} or search FASTA databases with --tool pyhmmer"
        )
    return path


def program_version(name: str) -> str:
    """What an installed program calls its version, e.g. '3.3.2'."""
    command = [find_program(name), "version" if name == "mmseqs" else "-h"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    match = re.search(r"HMMER (\S+)|^HH\w+ (\d[\d.]*)|^(\S+)$", text, re.MULTILINE)
    return next(filter(None, match.groups())) if match else "unknown"


def has_option(name: str, command: str, option: str) -> bool:
    """Whether ``name command -h`` lists ``option``."""
    return option in subprocess.run([find_program(name), command, "-h"], capture_output=True, text=True, timeout=60).stdout


def run_program(command: Sequence[str | Path], log: Path, timeout: float | None) -> None:
    """Run to the end, both outputs into ``log``. The program and its children are killed on any way out: interrupt, stop, time limit.

    Raises FoldlineError with the log's last lines when it fails or takes longer than ``timeout`` seconds.
    """
    with log.open("ab") as out:
        out.write((" ".join(map(str, command)) + "\n").encode())
        out.flush()
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # a stop must not fall between the start and what kills the program
        try:
            # Its own session: a terminal's interrupt reaches the program through us alone, and its children can be killed with it.
            process = subprocess.Popen([*map(str, command)], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
            code = _wait(process, Path(command[0]).name, timeout, held)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
    if code:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
        raise FoldlineError(f"{Path(command[0]).name} {how}: {_tail(log)}")


def _wait(process: subprocess.Popen[bytes], name: str, timeout: float | None, held: set[signal.Signals | int]) -> int:
    """The exit code. The signals that were held back come through from here on; the program is killed on any way out."""
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise FoldlineError(f"{name} took longer than --timeout {timeout:g} s; raise it or give more --threads") from None
    finally:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and what it started; children may outlive a leader that has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()[1:] if line.strip()]
    return " | ".join(lines[-_TAIL:]) or "it said nothing"
