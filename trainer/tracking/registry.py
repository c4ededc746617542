"""Averaged weights as a version of a registered model: files, signature, and the alias ``champion`` for the best of one data set.

The flavour is our own, ``foldline``: weights and config, to be loaded by ``foldline export`` or ``model/weights.py``. It says nothing of
Python functions: what folds is a bundle.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...data_store.types import FeatureBatch, schema_of
from ..config import RunConfig
from ..measures import rankable
from ..rundir import RunDir
from .state import read_json

FOLDER = "model"  # within the run's artefacts
CHAMPION = "champion"
VALUE = "foldline.value"


def register(client: Any, run: RunDir, config: RunConfig, run_id: str, uid: str, done: str) -> str:
    """Make a version of ``tracking.register`` from the run's averaged weights, once; returns "NAME HASH VALUE", the mark of what is done.

    ``done`` is the mark of the last call. A version that a lost call made already is found by its tags and not made again; a value that a
    side job measured later is added to it.
    """
    name = config.tracking.register
    if not run.weights.exists():
        return done
    with run.weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    tags = version_tags(run, config) | {"foldline.weights": digest, "foldline.uid": uid}
    mark = f"{name} {digest} {tags.get(VALUE, '')}"
    if mark == done:
        return done
    _ensure_model(client, name)
    version = next((v for v in client.search_model_versions(f"name = '{name}'") if v.tags.get("foldline.weights") == digest), None)
    if version is None:
        upload(client, run, run_id)
        source = f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}"
        version = client.create_model_version(name, source, run_id, tags)
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(name, version.version, key, value)
    crown(client, name, version.version, tags)
    return mark


def version_tags(run: RunDir, config: RunConfig) -> dict[str, str]:
    """What a version is judged by: the metric, its value, the data set, and which chains were folded how."""
    after, about = (read_json(path) for path in (run.summary, run.environment))
    after = after.get("after", {})
    metric = config.validate.metric
    tags = {
        "foldline.dataset": str(about.get("dataset", {}).get("hash", "")),
        "foldline.validation_set": str(after.get("set", "")),
        "foldline.metric": metric,
        "foldline.step": str(after.get("step", "")),
    }
    value = after.get(metric)
    return tags | ({VALUE: repr(float(value))} if isinstance(value, int | float) else {})


def crown(client: Any, name: str, version: Any, tags: Mapping[str, str]) -> None:
    """Give ``version`` the alias ``champion`` where it beats the present one at the same metric on the same data; tag the reason."""
    aliases = client.get_registered_model(name).aliases
    if str(aliases.get(CHAMPION, "")) == str(version):
        return
    holder = client.get_model_version(name, aliases[CHAMPION]) if CHAMPION in aliases else None
    better, reason = judge(tags, None if holder is None else holder.tags)
    if better:
        client.set_registered_model_alias(name, CHAMPION, version)
    client.set_model_version_tag(name, version, "foldline.champion", reason)


def judge(mine: Mapping[str, str], theirs: Mapping[str, str] | None) -> tuple[bool, str]:
    """Whether a version with the tags ``mine`` takes the place of one with ``theirs`` (None: nobody holds it), and why."""
    if VALUE not in mine:
        return False, f"no: the run measured no {mine['foldline.metric']}"
    value, metric = float(mine[VALUE]), mine["foldline.metric"]
    if not np.isfinite(value):
        return False, f"no: {metric} is {value}"
    if theirs is None:
        return True, f"yes: the first, {metric} {value:.4f}"
    for key in ("foldline.dataset", "foldline.validation_set", "foldline.metric"):
        if mine[key] != theirs.get(key):
            return False, f"no: {key} differs from the champion's, so their values cannot be compared"
    best = float(theirs[VALUE])
    won = value > best if rankable()[metric] else value < best
    return won, f"{'yes' if won else 'no'}: {metric} {value:.4f}, the champion before had {best:.4f}"


def upload(client: Any, run: RunDir, run_id: str) -> None:
    """Put a model folder of MLflow's form into the run's artefacts."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    kinds = {"int": np.dtype(np.int64), "float": np.dtype(np.float32)}
    inputs = [
        TensorSpec(kinds[field.kind], tuple(size if isinstance(size, int) else -1 for size in field.dims), name)
        for name, field in schema_of(FeatureBatch).items()
    ]
    model = Model(artifact_path=FOLDER, run_id=run_id, signature=ModelSignature(inputs=Schema(inputs)))
    model.add_flavor("foldline", version=__version__, weights=run.weights.name, config=run.config.name)
    with tempfile.TemporaryDirectory() as folder:
        description = Path(folder) / "MLmodel"
        model.save(str(description))
        for path in (run.weights, run.config, description):
            client.log_artifact(run_id, str(path), FOLDER)


def _ensure_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name, description="AlphaFold2 weights trained by Foldline")
