"""``foldline track sync``: run directories written without a network, sent to MLflow afterwards; it may be stopped and given again."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Sequence
from pathlib import Path

from ...errors import FoldlineError, missing_package
from ..rundir import RunDir
from .feed import Amount, Feed, read_config, reason_of
from .parents import parent_directory

# A person waits for these, not a training step.
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}


def sync_command(folders: Sequence[Path], uri: str) -> int:
    """Send what the server lacks of each run directory, parents before their children; 0, or FoldlineError when a server gave up."""
    if importlib.util.find_spec("mlflow") is None:
        raise missing_package("mlflow", "train", "foldline track")
    os.environ.update({name: os.environ.get(name, value) for name, value in PATIENCE.items()})
    chosen = [(folder, address_of(folder, uri)) for folder in in_order(folders)]
    for folder, address in chosen:
        start = time.monotonic()
        amount, run_id = sync_run(folder, address)
        sent = f"{amount.metrics} values, {amount.files} files" if amount.metrics or amount.files else "nothing new"
        print(f"{folder}: {sent} to {address}, run {run_id}, {time.monotonic() - start:.1f} s", flush=True)
    return 0


def sync_run(folder: Path, uri: str) -> tuple[Amount, str]:
    """Send one run directory; returns what was moved and the run's id. FoldlineError where the server fails: what it has is remembered."""
    feed = Feed(RunDir(folder), uri)
    try:
        return feed.send(), feed.run_id
    except FoldlineError:
        raise
    except Exception as error:  # MLflow, its HTTP client and its database each have their own
        raise FoldlineError(
            f"{folder}: {uri} did not take everything ({reason_of(error)}); give the same command again, it goes on from there"
        ) from None


def address_of(folder: Path, uri: str) -> str:
    """``uri``, else what the run's config or MLFLOW_TRACKING_URI names, else the run's own database where it has one.

    FoldlineError where there is none of these.
    """
    run = RunDir(folder)
    address = uri or read_config(run).tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not address and (folder / "mlflow.db").is_file():
        address = run.local_uri
    if not address:
        raise FoldlineError(f"{folder}: no server is named; give --uri, e.g. http://HOST:5000 or sqlite:///mlflow.db")
    return address


def in_order(folders: Sequence[Path]) -> list[Path]:
    """``folders`` without repeats, each after the run directory that it names as parent, where that is among them."""
    parents = {folder.resolve(): parent_directory(read_config(RunDir(folder)).tracking.parent) for folder in folders}
    ordered: list[Path] = []
    waiting = list(dict.fromkeys(folder.resolve() for folder in folders))
    names = {folder.resolve(): folder for folder in folders}
    while waiting:
        free = [f for f in waiting if (parent := parents[f]) is None or parent.resolve() not in waiting or parent.resolve() == f]
        free = free or waiting[:1]  # runs that name each other
        ordered += free
        waiting = [folder for folder in waiting if folder not in free]
    return [names[folder] for folder in ordered]
