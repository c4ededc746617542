"""What must hold when the disturbed run is over; every check returns its problems, none when it holds."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor, uint8

from ...model.weights import read_weights
from ..checkpoint import EMA, MODEL, folder_of, rank_file
from ..journal import Record, read_after, read_journal
from ..rundir import RunDir
from ..tracking.feed import open_client
from ..tracking.state import Sent, TrackingState
from .job import bearers, describe

COMPARED = ("loss/", "train/", "optim/", "skip/", "validate/", "imported/")  # what must not depend on when and how fast the run went
NAMED_AT_MOST = 5
LITTER = ("**/*.partial", "**/.*", "**/*.done")

Point = tuple[str, int, int, float]  # metric, step, milliseconds since the epoch, value


def weights(undisturbed: RunDir, disturbed: RunDir, step: int, ranks: int) -> list[str]:
    """Model, EMA and every rank's share (weights, EMA, Adam's moments) of the last checkpoint, bit by bit."""
    problems = []
    for name in (MODEL, EMA, *(rank_file(rank) for rank in range(ranks))):
        one, other = (folder_of(run.checkpoints, step) / name for run in (undisturbed, disturbed))
        problems += _differing(one, other, name)
    return problems + _differing(undisturbed.weights, disturbed.weights, f"{disturbed.weights.parent.name}/{disturbed.weights.name}")


def journal(undisturbed: RunDir, disturbed: RunDir, steps: int) -> list[str]:
    """Every step once, after what a resumption voids, with the numbers of the undisturbed run; so with the validations."""
    histories = [read_journal(run.journal) for run in (undisturbed, disturbed)]
    taken = Counter(record.step for record in histories[1] if record.kind == "train")
    problems = _listed("steps without a line", (str(step) for step in range(1, steps + 1) if not taken[step]))
    problems += _listed("steps with several lines", (str(step) for step, count in sorted(taken.items()) if count > 1))
    mine, theirs = ({(record.kind, record.step): record for record in history if record.kind != "system"} for history in histories)
    problems += _listed("records without their like in the undisturbed run", (f"{k} {s}" for k, s in sorted(theirs.keys() - mine.keys())))
    missing = sorted(key for key in mine.keys() - theirs.keys() if key[0] != "train")
    problems += _listed("records that only the undisturbed run has", (f"{k} {s}" for k, s in missing))
    changed = (f"{key[0]} {key[1]} ({name})" for key in sorted(mine.keys() & theirs.keys()) for name in _changed(mine[key], theirs[key]))
    return problems + _listed("records with other numbers", changed)


def tracked(run: RunDir, uri: str) -> list[str]:
    """The server holds one run of this directory, finished, with exactly the points of its journals."""
    state, client = TrackingState.read(run.tracking), open_client(uri)
    run_id = state.servers.get(uri, Sent()).run_id
    if not run_id:
        return [f"no run at {uri}"]
    there = [e.experiment_id for e in client.search_experiments()]
    found = client.search_runs(there, f"tags.`foldline.uid` = '{state.uid}'")
    problems = [] if len(found) == 1 else [f"{len(found)} runs of this directory instead of one"]
    about = client.get_run(run_id)
    if about.info.status != "FINISHED":
        problems.append(f"the run's status is {about.info.status} instead of FINISHED")
    held: set[Point] = set()
    for name in about.data.metrics:
        held |= {(name, metric.step, metric.timestamp, metric.value) for metric in client.get_metric_history(run_id, name)}
    wanted = points(run)
    problems += _listed("points of the journal that MLflow lacks", (f"{p[0]} of step {p[1]}" for p in sorted(wanted - held)))
    return problems + _listed("points in MLflow that no journal has", (f"{p[0]} of step {p[1]}" for p in sorted(held - wanted)))


def points(run: RunDir) -> set[Point]:
    """The points of the run's journals. What a resumption voids is there too, for MLflow takes nothing back; where a step that was made
    again has the value that it had, that one stands for both.
    """
    found: set[Point] = set()
    for path in run.root.glob("metrics*.jsonl"):
        newest: dict[tuple[str, int], float] = {}
        for record in read_after(path, 0).records:
            for name, value in record.metrics.items():
                again = record.kind != "system" and newest.get((name, record.step)) == value
                if not again and not math.isnan(value):
                    found.add((name, record.step, round(record.time * 1000), value))
                    newest[name, record.step] = value
    return found


def processes(mark: str, patience: float) -> list[str]:
    """No process of the job is left after ``patience`` seconds."""
    end = time.monotonic() + patience
    while (left := bearers(mark)) and time.monotonic() < end:
        time.sleep(0.1)
    return _listed("processes that outlived their job", filter(None, map(describe, left)))


def litter(run: RunDir) -> list[str]:
    """No file in the making is left in the run directory."""
    found = {path for pattern in LITTER for path in run.root.glob(pattern)} - {run.tracking_lock}
    return _listed("left-overs", (str(path.relative_to(run.root)) for path in sorted(found)))


def messages(logs: Sequence[Path]) -> list[str]:
    """What users saw holds no traceback."""
    return _listed("tracebacks in", (str(log) for log in logs if "Traceback (most recent call last)" in log.read_text(errors="replace")))


def _differing(one: Path, other: Path, name: str) -> list[str]:
    gone = [str(path) for path in (one, other) if not path.exists()]
    if gone:
        return [f"{' and '.join(gone)} not there"]
    mine, theirs = (read_weights(path)[0] for path in (one, other))
    if mine.keys() != theirs.keys():
        return [f"{name} holds other tensors"]
    return _listed(f"tensors of {name} with other bits", (key for key in mine if not _same_bits(mine[key], theirs[key])))


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return bool((one.reshape(-1).view(uint8) == other.reshape(-1).view(uint8)).all())


def _changed(mine: Record, theirs: Record) -> list[str]:
    values = [{name: v for name, v in record.metrics.items() if name.startswith(COMPARED)} for record in (mine, theirs)]
    names = sorted(values[0].keys() | values[1].keys())
    return [name for name in names if repr(values[0].get(name)) != repr(values[1].get(name))]


def _listed(what: str, found: Iterable[str]) -> list[str]:
    names = list(found)
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return [f"{len(names)} {what}: {', '.join(names[:NAMED_AT_MOST])}{more}"] if names else []
