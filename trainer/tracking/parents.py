"""Lines of runs: pretraining, fine-tuning and what follows are children of one run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ...errors import FoldlineError
from ..config import RunConfig
from ..rundir import RunDir
from .state import Sent, TrackingState

RUN_ID = re.compile(r"[0-9a-f]{32}")
PROJECT = "foldline.project"


def stage_of(config: RunConfig) -> str:
    """ "finetune" for a run that starts from weights, else "pretrain"."""
    return "finetune" if config.run.init_weights else "pretrain"


def parent_directory(parent: str) -> Path | None:
    """``tracking.parent`` as a run directory, None where it is a run id or a line's name. FoldlineError for a folder that holds no run."""
    if not parent or RUN_ID.fullmatch(parent):
        return None
    folder = Path(parent)
    if (folder / "config.json").is_file():
        return folder
    if "/" in parent or folder.exists():
        raise FoldlineError(
            f"tracking.parent = {parent!r} holds no run; give a run's directory, an MLflow run id, or a line's name without '/'"
        )
    return None


def parent_run(client: Any, experiment: str, uri: str, parent: str) -> str:
    """The MLflow run that ``tracking.parent`` means at the server ``uri``; "" for none, and for a directory that was never sent there.

    A name stands for a line of runs: its parent run is made by the first child.
    """
    folder = parent_directory(parent)
    if folder is not None:
        return TrackingState.read(RunDir(folder).tracking).servers.get(uri, Sent()).run_id
    if not parent or RUN_ID.fullmatch(parent):
        return parent
    quoted = parent.replace("'", "''")
    found = client.search_runs([experiment], f"tags.`{PROJECT}` = '{quoted}'", order_by=["attributes.start_time ASC"], max_results=1)
    if found:
        return str(found[0].info.run_id)
    made = client.create_run(experiment, tags={PROJECT: parent}, run_name=parent).info.run_id
    client.set_terminated(made, "FINISHED")
    return str(made)
