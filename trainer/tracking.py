"""MLflow, fed from the journal by a thread of its own: a slow or dead server costs training nothing and loses nothing.

The byte offset up to which MLflow has the journal is kept in ``RUN/tracking.json``; whatever lies behind it is sent at the next chance,
also by a later start of the run.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import missing_package
from ..settings import flatten, to_dict
from .config import RunConfig
from .journal import read_after
from .rundir import RunDir, write_atomic

T = TypeVar("T")

# MLflow's own limits are 120 s per request and 7 retries: minutes for one call to a server that is gone.
LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
METRICS_PER_CALL = 1000  # the server's limits
PARAMS_PER_CALL = 100
CLOSE_SECONDS = 60.0  # how long the end of a run waits for the last batch
ARTIFACTS = ("config.json", "deepspeed.json", "environment.json", "summary.json", "plots/*.png")


def require_mlflow(config: RunConfig) -> None:
    """Raise FoldlineError where tracking is on and MLflow is missing."""
    if config.tracking.mlflow and importlib.util.find_spec("mlflow") is None:
        raise missing_package("mlflow", "train", "tracking.mlflow = true (or set it to false)")


class Tracker:
    """Sends one run's journal and files to MLflow every ``flush_seconds``, on rank 0 only.

    No method raises or waits for the server, except ``close``, which waits a bounded time. ``trouble`` is the last error, "" after a
    success.
    """

    def __init__(self, config: RunConfig, run: RunDir, run_id: str = "") -> None:
        os.environ.update({name: os.environ.get(name, value) for name, value in LIMITS.items()})
        import mlflow  # noqa: F401  (here and not in the thread: imports of two threads can meet half-loaded modules)

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self.run = run
        self.trouble = ""
        self._config = config
        self._uri = config.tracking.uri or f"sqlite:///{(run.root / 'mlflow.db').resolve()}"
        state = _read_state(run.tracking)
        known = state if state.get("uri") == self._uri else {}
        self.run_id = str(known.get("run_id", run_id if state.get("uri", self._uri) == self._uri else ""))
        self._offset = int(known.get("offset", 0))
        self._client: Any = None
        self._sent_files: dict[Path, int] = {}
        self._status = "RUNNING"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def close(self, status: str) -> None:
        """Send what is left and set the run's ``status``: "FINISHED", "KILLED" (stopped, to be resumed) or "FAILED"."""
        self._status = status
        self._stop.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self.trouble = self.trouble or f"no answer within {CLOSE_SECONDS:.0f} s"

    def _work(self) -> None:
        self._guard(self._send)
        while not self._stop.wait(self._config.tracking.flush_seconds):
            self._guard(self._send)
        self._guard(self._send)
        if not self.trouble:
            self._guard(lambda: self._client.set_terminated(self.run_id, self._status))

    def _guard(self, call: Callable[[], None]) -> None:
        try:
            call()
            self.trouble = ""
        except Exception as error:  # whatever a server, a proxy or a full disk does, training goes on
            self.trouble = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"

    def _send(self) -> None:
        if self._client is None:
            self._client = self._connect()
        while True:
            batch = read_after(self.run.journal, self._offset, METRICS_PER_CALL // 2)
            if batch.end == self._offset:
                break
            metrics = [_metric(name, value, r.time, r.step) for r in batch.records for name, value in r.metrics.items() if value == value]
            for part in _chunks(metrics, METRICS_PER_CALL):
                self._client.log_batch(self.run_id, metrics=part, synchronous=True)
            self._offset = batch.end
            self._save_state()
        for pattern in ARTIFACTS:
            for path in sorted(self.run.root.glob(pattern)):
                self._send_file(path)

    def _send_file(self, path: Path) -> None:
        changed = path.stat().st_mtime_ns
        if self._sent_files.get(path) != changed:
            folder = path.parent.relative_to(self.run.root)
            self._client.log_artifact(self.run_id, str(path), None if folder == Path() else str(folder))
            self._sent_files[path] = changed

    def _connect(self) -> Any:
        """A client with ``self.run_id`` set: the run of an earlier start, marked running again, or a new one with its parameters."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        client = MlflowClient(tracking_uri=self._uri)
        if self.run_id:
            client.update_run(self.run_id, status="RUNNING")
            return client
        settings = self._config.tracking
        experiment = client.get_experiment_by_name(settings.experiment)
        if experiment is None:
            # Files of a local run lie in its directory; a server knows better where its own belong.
            location = None if settings.uri else (self.run.root / "artifacts").resolve().as_uri()
            identifier = client.create_experiment(settings.experiment, artifact_location=location)
        else:
            identifier = experiment.experiment_id
        run_id = client.create_run(identifier, run_name=settings.run_name or self.run.root.resolve().name).info.run_id
        params = [Param(key, str(value)[:6000]) for key, value in flatten(to_dict(self._config)).items()]
        for part in _chunks(params, PARAMS_PER_CALL):
            client.log_batch(run_id, params=part, synchronous=True)
        self.run_id = run_id
        self._save_state()
        return client

    def _save_state(self) -> None:
        write_atomic(self.run.tracking, json.dumps({"uri": self._uri, "run_id": self.run_id, "offset": self._offset}) + "\n")


def _metric(name: str, value: float, seconds: float, step: int) -> Any:
    from mlflow.entities import Metric

    return Metric(name, value, int(seconds * 1000), step)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _read_state(path: Path) -> Mapping[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}
