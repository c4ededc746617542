"""One run directory on its way into one MLflow server: whole, once, and resumable after any interruption.

Nothing that MLflow gets exists only in memory. Metrics go line by line of the journals; a line that is sent twice is one row of MLflow's
database, because its time, step and value are those of the journal. A step that was made again is one point where it came to the same.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ... import __version__
from ...errors import FoldlineError
from ...settings import flatten, from_dict, to_dict
from ..config import RunConfig
from ..journal import follows_a_line, read_after
from ..run_state import FAILED, FINISHED, LOST, RUNNING, STOPPED, state_of, told
from ..rundir import RunDir
from .parents import parent_run, stage_of
from .registry import register
from .repeats import Repeats
from .state import Sent, TrackingState, locked, read_json

T = TypeVar("T")

# MLflow's own limits are 120 s per request and 7 retries: minutes for one call to a server that is gone.
LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
METRICS_PER_CALL = 1000  # the server's limits
PARAMS_PER_CALL = 100
LINES_PER_READ = 50  # of a journal; what is sent is remembered after each
LONGEST_VALUE, LONGEST_DIGEST = 6000, 36
LONGEST_REASON = 200  # of an error that is told
SQLITE = "sqlite:///"
ARTIFACTS = (
    "config.json",
    "deepspeed.json",
    "environment.json",
    "summary.json",
    "structures.html",
    "plots/*",
    "structures/*",
    "tables/*",
    "validation/*",
)
STATUS = {RUNNING: "RUNNING", FINISHED: "FINISHED", STOPPED: "KILLED", FAILED: "FAILED", LOST: "FAILED"}


@dataclass
class Amount:
    """What one ``send`` moved."""

    metrics: int = 0
    files: int = 0


class Feed:
    """Sends what the server at ``uri`` lacks of ``run``. ``hint`` is a run id to continue where the directory knows none."""

    def __init__(self, run: RunDir, uri: str, hint: str = "") -> None:
        prepare()
        self.run = run
        self.uri = uri
        self.run_id = TrackingState.read(run.tracking).servers.get(uri, Sent()).run_id
        self._hint = hint
        self._client: Any = None
        self._repeats: dict[str, Repeats] = {}

    def send(self) -> Amount:
        """Send everything that is not there yet, the run's state last. Raises what MLflow raises; what was sent is remembered."""
        with locked(self.run.tracking_lock):
            state = TrackingState.read(self.run.tracking)
            sent = state.servers.get(self.uri) or Sent(run_id=self._hint if not state.servers else "")
            config = read_config(self.run)
            if self._client is None:
                client = self._connect(config, state, sent)
                self._client, self.run_id = client, sent.run_id
            amount = Amount()
            journals = [self.run.journal, *sorted(self.run.root.glob("metrics.*.jsonl"))]
            for journal in journals:
                amount.metrics += self._send_journal(journal, state, sent)
            for path in (path for pattern in ARTIFACTS for path in sorted(self.run.root.glob(pattern))):
                amount.files += self._send_file(path, state, sent)
            self._tell_state(config, state, sent)
        return amount

    def _send_journal(self, journal: Path, state: TrackingState, sent: Sent) -> int:
        from mlflow.entities import Metric

        count = 0
        while journal.exists():
            offset = sent.journals.get(journal.name, 0)
            batch = read_after(journal, offset, LINES_PER_READ)
            if batch.end == offset:
                break
            repeats = self._repeats.pop(journal.name, None)
            if repeats is None or repeats.at != offset:
                repeats = Repeats(journal, offset if follows_a_line(journal, offset) else 0)
            points = repeats.fresh(batch.records)
            metrics = [Metric(name, value, round(record.time * 1000), record.step) for record, name, value in points]
            for part in _chunks(metrics, METRICS_PER_CALL):
                self._client.log_batch(sent.run_id, metrics=part, synchronous=True)
            sent.journals[journal.name] = repeats.at = batch.end
            count += len(metrics)
            state.save()
            self._repeats[journal.name] = repeats  # not where a call failed: what MLflow has is then read again
        return count

    def _send_file(self, path: Path, state: TrackingState, sent: Sent) -> bool:
        name, about = str(path.relative_to(self.run.root)), path.stat()
        mark = [about.st_mtime_ns, about.st_size]
        if sent.files.get(name) == mark or path.name.endswith(".partial"):
            return False
        folder = os.path.dirname(name)
        self._client.log_artifact(sent.run_id, str(path), folder or None)
        if folder == "tables":
            tables = sorted({n for n in (*sent.files, name) if n.startswith("tables/")})
            shown = json.dumps([{"path": table, "type": "table"} for table in tables])
            self._client.set_tag(sent.run_id, "mlflow.loggedArtifacts", shown)
        sent.files[name] = mark
        state.save()
        return True

    def _tell_state(self, config: RunConfig, state: TrackingState, sent: Sent) -> None:
        now, last = state_of(self.run.state) or RUNNING, told(self.run.state)
        if now == FINISHED and config.tracking.register:
            version = register(self._client, self.run, config, sent.run_id, state.uid, sent.version)
            if version != sent.version:
                sent.version = version
                state.save()
        if now == sent.state:
            return
        if now == RUNNING or last is None:
            self._client.update_run(sent.run_id, status="RUNNING")
        else:
            self._client.set_terminated(sent.run_id, STATUS[now], round(last.time * 1000))
        sent.state = now
        state.save()

    def _connect(self, config: RunConfig, state: TrackingState, sent: Sent) -> Any:
        """A client, with ``sent.run_id`` set to the run of an earlier start or to a new one; parameters, tags and data set are there."""
        client = open_client(self.uri)
        experiment = self._experiment(client, config)
        state.servers[self.uri] = sent
        state.save()  # the uid is on the disk before the server hears it
        found = client.search_runs([experiment], f"tags.`foldline.uid` = '{state.uid}'", max_results=1)
        if found:
            sent.run_id = found[0].info.run_id
        elif not (sent.run_id and _exists(client, sent.run_id)):
            sent.journals, sent.files, sent.state, sent.version = {}, {}, "", ""  # the server was emptied, or the id is another's
            name = config.tracking.run_name or self.run.root.resolve().name
            begun = read_after(self.run.journal, 0, 1).records if self.run.journal.exists() else []
            start = round(begun[0].time * 1000) if begun else None
            sent.run_id = client.create_run(experiment, start, {"foldline.uid": state.uid}, name).info.run_id
        state.save()
        self._describe(client, experiment, config, sent.run_id)
        return client

    def _experiment(self, client: Any, config: RunConfig) -> str:
        from mlflow.exceptions import MlflowException

        name = config.tracking.experiment
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(client.create_experiment(name, artifact_location=self._location()))
            except MlflowException:  # another run made it meanwhile
                experiment = client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def _location(self) -> str | None:
        """Where the files of an experiment belong: those of a local run in its directory, those of another database beside it (MLflow would
        take the folder that this process happens to be in); a server knows better.
        """
        if self.uri == self.run.local_uri:
            return (self.run.root / "artifacts").resolve().as_uri()
        if self.uri.startswith(SQLITE):
            return Path(self.uri.removeprefix(SQLITE).partition("?")[0]).resolve().with_name("mlruns").as_uri()
        return None

    def _describe(self, client: Any, experiment: str, config: RunConfig, run_id: str) -> None:
        """Parameters (which MLflow never changes: what a resumed run changed becomes a tag), tags, the parent and the data set."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        about = read_json(self.run.environment)
        wanted = {key: _fitted(str(value)) for key, value in flatten(to_dict(config)).items()}
        there = client.get_run(run_id).data.params
        tags = {f"resumed.{key}": value for key, value in wanted.items() if there.get(key, value) != value}
        tags |= tags_of(about) | {"foldline.stage": stage_of(config)}
        parent = parent_run(client, experiment, self.uri, config.tracking.parent)
        tags |= {"mlflow.parentRunId": parent} if parent and parent != run_id else {}
        if origin := about.get("starts_from"):
            known = TrackingState.read(RunDir(Path(origin)).tracking).servers.get(self.uri, Sent()).run_id
            tags |= {"foldline.starts_from": origin} | ({"foldline.starts_from_run": known} if known else {})
        for part in _chunks([Param(key, value) for key, value in wanted.items() if key not in there], PARAMS_PER_CALL):
            client.log_batch(run_id, params=part, synchronous=True)
        for part in _chunks([RunTag(key, _fitted(value)) for key, value in tags.items()], PARAMS_PER_CALL):
            client.log_batch(run_id, tags=part, synchronous=True)
        if data := about.get("dataset"):
            source, schema, profile = (json.dumps(x) for x in ({"uri": data["source"]}, data["schema"], data["profile"]))
            entity = Dataset(data["name"], data["hash"][:LONGEST_DIGEST], "local", source, schema, profile)
            client.log_inputs(run_id, datasets=[DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])


def prepare() -> None:
    """Import MLflow under our limits. In the main thread: imports of two threads can meet half-loaded modules."""
    os.environ.update({name: os.environ.get(name, value) for name, value in LIMITS.items()})
    import mlflow  # noqa: F401

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def open_client(uri: str) -> Any:
    """MLflow's client for the server or database at ``uri``."""
    prepare()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def reason_of(error: Exception) -> str:
    """An error of MLflow, its HTTP client or its database in a line that can be told."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 2]} …"


def _exists(client: Any, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True


def tags_of(about: dict[str, Any]) -> dict[str, str]:
    """``environment.json`` as tags."""
    tags = {"foldline.version": str(about.get("foldline", __version__)), "mlflow.source.name": "foldline train"}
    git, data = about.get("git", {}), about.get("dataset", {})
    if git:
        tags |= {"mlflow.source.git.commit": git["commit"], "foldline.git.dirty": str(git["dirty"]).lower()}
    if data:
        tags |= {"foldline.dataset": data["hash"]}
    if about.get("hosts"):
        tags |= {"foldline.hosts": ", ".join(about["hosts"]), "foldline.world": str(about["world"])}
    if about.get("container"):
        tags |= {"foldline.container": about["container"]}
    if "zero_stage" in about:
        tags |= {"foldline.zero_stage": str(about["zero_stage"])}
    return tags | {f"foldline.{name}": value for name, value in about.get("job", {}).items()}


def read_config(run: RunDir) -> RunConfig:
    """The resolved config of a run directory. Raises FoldlineError where there is none."""
    try:
        return from_dict(RunConfig, json.loads(run.config.read_text()), str(run.config))
    except (OSError, ValueError) as error:
        raise FoldlineError(
            f"{run.root} is no run directory: {run.config.name} is not readable ({error}); give the run.dir of a run"
        ) from None


def _fitted(value: str) -> str:
    if len(value) <= LONGEST_VALUE:
        return value
    note = f" … ({len(value)} characters; config.json and environment.json have all)"
    return value[: LONGEST_VALUE - len(note)] + note


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
