"""``foldline jobs`` and ``foldline cancel``: where submitted jobs are, the end of their logs, and calling them off."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from ...errors import FoldlineError
from .records import Record, find, records
from .schedulers import STATE, State, ask, cancel

OVER = ("done", "failed", "cancelled", "stopped")


def jobs_command(wanted: str, follow: bool, lines: int, limit: int, poll: float, as_json: bool) -> int:
    """List the newest jobs, or show one; with ``follow`` until it has ended. Exit code 1 for a followed job that failed."""
    if lines < 0 or limit < 1:
        raise FoldlineError(f"--lines {lines} must be at least 0, and --limit {limit} at least 1")
    if not wanted:
        if follow:
            raise FoldlineError("--follow needs the id or name of a job")
        return _list(limit, as_json)
    if poll <= 0:
        raise FoldlineError(f"--poll {poll:g} is not above 0 seconds")
    record = find(wanted)
    if follow:
        return _follow(record, poll)
    state = state_of(record)
    if as_json:
        print(json.dumps({**asdict(record), **asdict(state)}))
        return 0
    print(f"{', '.join(record.ids)}  {record.name}  {record.scheduler}  {state.word}  {state.detail}".rstrip())
    print(f"submitted {record.submitted} UTC: foldline {' '.join(record.command)}")
    print(f"folder {record.folder}")
    for line in tail(record, lines):
        print(line)
    return 0


def cancel_command(wanted: str) -> int:
    """Call a job off, with all that follow it. What the run has saved stays."""
    record = find(wanted)
    folder = Path(record.folder)
    if folder.is_dir():
        (folder / "cancelled").touch()  # first, or a script that ends in time would start itself again
    cancel(record.scheduler, numbers(record), record.kind, record.namespace)
    print(f"cancelled {', '.join(numbers(record))} ({record.name})")
    return 0


def numbers(record: Record) -> tuple[str, ...]:
    """All ids of a job; on PBS it adds a new one each time it starts again."""
    notes = Path(record.folder) / "ids"
    later = notes.read_text().split() if notes.is_file() else []
    return tuple(dict.fromkeys([*record.ids, *later]))


def state_of(record: Record) -> State:
    """What the job's notes say of its end, else what the scheduler says of the id that is on its way."""
    folder, ids = Path(record.folder), numbers(record)
    notes = {name: [*folder.glob(name), *folder.glob(f"{name}.*")] for name in ("cancelled", "failed", "done")}
    if notes["cancelled"]:
        return State("cancelled")
    if notes["failed"]:
        codes = sorted({path.read_text().strip() for path in notes["failed"]})
        tasks = f" in {len(notes['failed'])} of {record.tasks} tasks" if record.tasks else ""
        return State("failed", f"exit code {', '.join(codes)}{tasks}")
    if notes["done"] and len(notes["done"]) >= max(record.tasks, 1) and len(ids) == 1:
        return State("done")
    if (folder / "done").exists():
        return State("done")
    states = [STATE[record.scheduler](number, record.kind, record.namespace) for number in ids]
    for word in ("running", "requeued", "queued"):
        found = next((state for state in states if state.word == word), None)
        if found is not None:
            return found
    last = next((state for state in reversed(states) if state.word != "gone"), None)
    if last is not None and last.word != "done":
        return last
    if record.scheduler == "kubernetes":
        return last or State("gone", "the cluster does not know it any more")
    return State("stopped", "ended without a note: its time was up, or it was killed; submit it again with --resume")


def tail(record: Record, count: int) -> list[str]:
    """The last ``count`` lines of the newest log."""
    if record.scheduler == "kubernetes":
        pods = ["--selector", f"job-name={record.ids[0]},batch.kubernetes.io/job-completion-index=0", f"--tail={count}"]
        namespace = ["--namespace", record.namespace] if record.namespace else []
        return ask(["kubectl", *namespace, "logs", *pods], check=False).stdout.splitlines()
    log = newest_log(record)
    return log.read_text(errors="replace").splitlines()[-count:] if log and count else []


def newest_log(record: Record) -> Path | None:
    """The log that was written to last; None before the first."""
    return max(Path(record.folder).glob("log-*.txt"), key=lambda path: path.stat().st_mtime, default=None)


def _list(limit: int, as_json: bool) -> int:
    found = [(record, _state_or_reason(record)) for record in reversed(records()[-limit:])]
    if as_json:
        print(json.dumps([{**asdict(record), **asdict(state)} for record, state in found]))
        return 0
    for record, state in found:
        print(f"{record.ids[0]:>10}  {record.name:24}  {record.scheduler:10}  {record.submitted}  {state.word:9}  {state.detail}".rstrip())
    if not found:
        print("no job was submitted yet")
    return 0


def _state_or_reason(record: Record) -> State:
    """One scheduler that cannot be asked must not hide the jobs of the others."""
    try:
        return state_of(record)
    except FoldlineError as error:
        return State("unknown", str(error))


def _follow(record: Record, poll: float) -> int:
    """Print each change of state and what the log gets, until the end."""
    said, at, log = State(""), 0, None
    while True:
        state = state_of(record)
        current = newest_log(record)
        if current != log:
            log, at = current, 0
        if log is not None:
            with log.open(errors="replace") as file:
                file.seek(at)
                sys.stdout.write(file.read())
                at = file.tell()
        if state != said:
            print(f"foldline: {record.ids[0]} {state.word} {state.detail}".rstrip(), flush=True)
            said = state
        if state.word in OVER or state.word == "gone":
            return int(state.word != "done")
        time.sleep(poll)
