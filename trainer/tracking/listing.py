"""``foldline runs``: the newest runs with state, steps, best metrics, speed and data, from run directories or from an MLflow server.

Directories are read without MLflow and without torch; of a long journal only validations and the last steps are parsed.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ...errors import FoldlineError
from ..measures import rankable
from ..run_state import RUNNING, state_of, told

LAST_STEPS = 50  # whose speed counts
SILENT_SECONDS = 900.0  # after which a running run on another host is called silent
STATES = {"RUNNING": "running", "FINISHED": "finished", "KILLED": "stopped", "FAILED": "failed", "SCHEDULED": "running"}


@dataclass
class RunLine:
    """One run. ``best`` maps a validation metric to its best value and the step of it; ``started`` is seconds since the epoch."""

    name: str
    state: str
    started: float
    step: int = 0
    steps: int = 0
    samples_per_second: float | None = None
    best: dict[str, tuple[float, int]] = field(default_factory=dict)
    dataset: str = ""
    parent: str = ""
    place: str = ""


def runs_command(folders: Sequence[Path], uri: str, limit: int, as_json: bool) -> int:
    """Print the newest ``limit`` runs below ``folders``, or of the server at ``uri``."""
    if limit < 1:
        raise FoldlineError(f"--limit {limit} is below 1")
    if uri and folders:
        raise FoldlineError("give folders or --uri, not both")
    lines = server_runs(uri, limit) if uri else folder_runs(folders or [Path()], limit)
    if as_json:
        print(json.dumps([asdict(line) for line in lines], indent=1))
    elif not lines:
        print(f"no runs {'at ' + uri if uri else 'below ' + ', '.join(map(str, folders or [Path('.')]))}")
    else:
        table = render(lines)
        natural = Console(width=1000).measure(table).maximum
        Console(highlight=False, width=natural).print(table)  # a narrow terminal breaks the lines: no cell is cut
    return 0


def folder_runs(folders: Sequence[Path], limit: int) -> list[RunLine]:
    """The newest runs in and below ``folders``, newest first."""
    found = {}
    for folder in folders:
        if not folder.is_dir():
            raise FoldlineError(f"{folder} is no folder")
        for root in run_directories(folder):
            found[root.resolve()] = root
    newest = sorted(found.values(), key=lambda root: (root / "metrics.jsonl").stat().st_mtime, reverse=True)[:limit]
    return sorted((read_run(root) for root in newest), key=lambda line: line.started, reverse=True)


def run_directories(folder: Path) -> Iterable[Path]:
    """Directories with a config and a journal; nothing below one is looked at."""
    for here, below, files in os.walk(folder):
        if {"config.json", "metrics.jsonl"} <= set(files):
            below.clear()
            yield Path(here)
        below[:] = [name for name in below if not name.startswith(".") and not name.endswith(".zarr")]


def read_run(root: Path) -> RunLine:
    """What the files of one run directory say."""
    config, about = (_object(root / name) for name in ("config.json", "environment.json"))
    started, last, best = _scan(root / "metrics.jsonl")
    if (side := root / "metrics.validation.jsonl").is_file():  # validated beside the training
        for name, (value, step) in _scan(side)[2].items():
            _take(best, name, value, step)
    tracking = config.get("tracking", {})
    data = about.get("dataset", {})
    speeds = [speed for record in last if (speed := record["metrics"].get("speed/samples_per_second"))]
    return RunLine(
        name=tracking.get("run_name") or root.resolve().name,
        state=_state(root),
        started=started,
        step=last[-1]["step"] if last else 0,
        steps=config.get("run", {}).get("steps", 0),
        samples_per_second=round(median(speeds), 4) if speeds else None,
        best=best,
        dataset=f"{data['name']} {data['hash'][:12]}" if data else "",
        parent=tracking.get("parent", ""),
        place=str(root),
    )


def server_runs(uri: str, limit: int) -> list[RunLine]:
    """The newest runs of all experiments of an MLflow server. FoldlineError where it does not answer."""
    import importlib.util

    from ...errors import missing_package

    if importlib.util.find_spec("mlflow") is None:
        raise missing_package("mlflow", "train", "foldline runs --uri")
    from .feed import open_client, reason_of

    file = uri.removeprefix("sqlite:///")
    if file != uri and not Path(file).is_file():  # MLflow would make one
        raise FoldlineError(f"--uri {uri}: there is no database {file}; a run's is sqlite:///RUN/mlflow.db")
    try:
        client = open_client(uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=limit)
        return [_server_line(client, run) for run in runs]
    except Exception as error:  # MLflow, its HTTP client and its database each have their own
        raise FoldlineError(f"{uri} does not answer as an MLflow server: {reason_of(error)}") from None


def _server_line(client: Any, run: Any) -> RunLine:
    metrics, params, tags = run.data.metrics, run.data.params, run.data.tags
    best: dict[str, tuple[float, int]] = {}
    for name in sorted(name for name in metrics if name.startswith("validate/")):
        for metric in client.get_metric_history(run.info.run_id, name):
            _take(best, name, metric.value, metric.step)
    last = client.get_metric_history(run.info.run_id, "loss/total") if "loss/total" in metrics else []
    return RunLine(
        name=run.info.run_name,
        state=STATES.get(run.info.status, run.info.status.lower()),
        started=run.info.start_time / 1000,
        step=max((metric.step for metric in last), default=0),
        steps=int(tags.get("resumed.run.steps") or params.get("run.steps") or 0),
        samples_per_second=metrics.get("speed/samples_per_second"),
        best=best,
        dataset=tags.get("foldline.dataset", "")[:12],
        parent=tags.get("mlflow.parentRunId", ""),
        place=run.info.run_id,
    )


def render(lines: Sequence[RunLine]) -> Table:
    """The table for people."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, justify in (("run", "left"), ("state", "left"), ("started", "left"), ("steps", "right"), ("samples/s", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for heading in ("best lDDT-Cα", "best RMSD", "data", "parent", "place"):
        table.add_column(heading)
    for line in lines:
        begun = datetime.fromtimestamp(line.started).strftime("%Y-%m-%d %H:%M") if line.started else ""
        speed = "" if line.samples_per_second is None else f"{line.samples_per_second:.2f}"
        steps = f"{line.step}/{line.steps}" if line.steps else ""
        found = [_shown(line.best, word) for word in ("lddt_ca", "rmsd_ca")]
        table.add_row(line.name, line.state, begun, steps, speed, *found, line.dataset, line.parent, line.place)
    return table


def _shown(best: dict[str, tuple[float, int]], metric: str) -> str:
    """The best value over held-out chains, over the trained ones where none are held out."""
    for split in ("validation", "trained"):
        if f"validate/{split}/{metric}" in best:
            value, step = best[f"validate/{split}/{metric}"]
            return f"{value:.3f} at {step}{' (trained)' if split == 'trained' else ''}"
    return ""


def _scan(journal: Path) -> tuple[float, list[dict[str, Any]], dict[str, tuple[float, int]]]:
    """Time of the first record, the last training records, and the best of each validation metric that no resume voided."""
    first, validations, last = 0.0, list[dict[str, Any]](), deque[bytes](maxlen=LAST_STEPS)
    with journal.open("rb") as file:
        for line in file:
            if line.startswith(b'{"kind": "train"') and first:
                last.append(line)
                continue
            record = _record(line)
            if record is None:
                continue
            first = first or record["time"]
            if record["kind"] == "train":
                last.append(line)
            elif record["kind"] == "validate":
                validations.append(record)
            elif record["kind"] == "resume":
                validations = [earlier for earlier in validations if earlier["step"] <= record["step"]]
    best: dict[str, tuple[float, int]] = {}
    for record in validations:
        for name, value in record["metrics"].items():
            if value is not None:
                _take(best, name, value, record["step"])
    return first, [record for line in last if (record := _record(line)) is not None], best


def _take(best: dict[str, tuple[float, int]], name: str, value: float, step: int) -> None:
    higher = rankable().get(name)
    if higher is not None and (name not in best or (value > best[name][0] if higher else value < best[name][0])):
        best[name] = (value, step)


def _state(root: Path) -> str:
    """A run that says it is running may be dead: its process is looked for on this host, its journal's age counts on others."""
    state, now = state_of(root / "state.json") or "unknown", told(root / "state.json")
    silent = time.time() - (root / "metrics.jsonl").stat().st_mtime
    if state != RUNNING or now is None or now.host == socket.gethostname() or silent < SILENT_SECONDS:
        return state
    return f"silent for {silent / 3600:.1f} h"


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = dict(json.loads(line))
        return record if {"kind", "step", "time", "metrics"} <= record.keys() else None
    except (ValueError, TypeError):
        return None


def _object(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}
