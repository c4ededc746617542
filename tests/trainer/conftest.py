"""The demo's real proteins as a store, made once for all trainings; tests that damage it copy it first."""

from __future__ import annotations

from pathlib import Path

import pytest

from foldline.data_store.ingest import ingest

from .runs import FAULTS, ROOT, finish, write_config


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "store"
    ingest(ROOT / "examples" / "demo", path)
    return path


@pytest.fixture(scope="session")
def undisturbed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of ``STEPS`` steps on two ranks to which nothing happened: what is disturbed must equal it bit for bit."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(write_config(folder, store, FAULTS))
    return folder / "run"
