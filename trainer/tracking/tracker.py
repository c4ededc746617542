"""The training's own sender: a thread that feeds MLflow, so that a slow or dead server costs training nothing and loses nothing."""

from __future__ import annotations

import importlib.util
import os
import threading

from ...errors import missing_package
from ..config import RunConfig
from ..rundir import RunDir
from .feed import Feed, reason_of
from .parents import parent_directory

CLOSE_SECONDS = 60.0  # how long the end of a run waits for the last batch


def check_tracking(config: RunConfig) -> None:
    """Raise FoldlineError where tracking is on and MLflow is missing, or ``tracking.parent`` is no run."""
    if config.tracking.mlflow and not config.tracking.offline and importlib.util.find_spec("mlflow") is None:
        raise missing_package("mlflow", "train", "tracking.mlflow = true (or set it to false, or tracking.offline to true)")
    parent_directory(config.tracking.parent)


def uri_of(config: RunConfig, run: RunDir) -> str:
    """Where a run is tracked: ``tracking.uri``, else MLFLOW_TRACKING_URI, else a database in the run directory."""
    return config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "") or run.local_uri


class Tracker:
    """Sends one run directory to MLflow every ``flush_seconds``, on rank 0 only.

    No method raises or waits for the server, except ``close``, which waits a bounded time. ``trouble`` is the last error, "" after a
    success.
    """

    def __init__(self, config: RunConfig, run: RunDir, run_id: str = "") -> None:
        self.trouble = ""
        self._feed = Feed(run, uri_of(config, run), run_id)
        self._seconds = config.tracking.flush_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str:
        """MLflow's id of the run, "" while there is none."""
        return self._feed.run_id

    def close(self) -> None:
        """Send what is left, for at most ``CLOSE_SECONDS``."""
        self._stop.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self.trouble = self.trouble or f"no answer within {CLOSE_SECONDS:.0f} s"

    def _work(self) -> None:
        self._send()
        while not self._stop.wait(self._seconds):
            self._send()
        self._send()

    def _send(self) -> None:
        try:
            self._feed.send()
            self.trouble = ""
        except Exception as error:  # whatever a server, a proxy or a full disk does, training goes on
            self.trouble = reason_of(error)
