"""A real ``mlflow server`` on a database of its own, to be killed and started again at the same address."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from ...errors import FoldlineError

PATIENCE = 180.0  # seconds for its start; imports take most


class Server:
    """``launch`` does not wait; ``answers`` tells whether it is there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def launched(self) -> bool:
        """Whether it was started since it was killed."""
        return self._process is not None

    def launch(self) -> None:
        """Start it."""
        folder = self._folder.resolve()
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", str(folder / "files")]
        with (folder / "log.txt").open("ab") as log:
            environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # five more processes, of no use to runs
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder, env=environment)

    def answers(self) -> bool:
        """Whether it takes requests. FoldlineError when its process has ended."""
        if self._process is None:
            return False
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return True
        except OSError:
            if self._process.poll() is not None:
                raise FoldlineError(f"mlflow server ended with code {self._process.returncode}; see {self._folder / 'log.txt'}") from None
            return False

    def wait(self) -> None:
        """Until it answers. FoldlineError after ``PATIENCE``."""
        end = time.monotonic() + PATIENCE
        while not self.answers():
            if time.monotonic() > end:
                raise FoldlineError(f"mlflow server does not answer after {PATIENCE:.0f} s; see {self._folder / 'log.txt'}")
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL to the server and its workers."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
