"""The demo's real proteins as a store and as records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foldline.data_store.ingest import ingest
from foldline.data_store.residues import GAP
from foldline.data_store.store import Store
from foldline.data_store.types import ChainRecord, Templates

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"


@pytest.fixture(scope="session")
def demo_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the demo's proteins; tests that damage it copy it first."""
    path = tmp_path_factory.mktemp("demo") / "store"
    ingest(DEMO, path)
    return path


@pytest.fixture(scope="session")
def records(demo_store: Path) -> list[ChainRecord]:
    """Every demo protein, the shallowest alignment first."""
    store = Store.open(demo_store)
    return sorted((store.record(name) for name in store.chain_ids), key=lambda r: len(r.msas[0].rows))


@pytest.fixture(scope="session")
def deep(records: list[ChainRecord]) -> ChainRecord:
    """The demo protein with the deepest alignment."""
    return records[-1]


@pytest.fixture(scope="session")
def shallow(records: list[ChainRecord]) -> ChainRecord:
    """The demo protein with the shallowest alignment."""
    return records[0]


@pytest.fixture(scope="session")
def templated(deep: ChainRecord) -> ChainRecord:
    """``deep`` with three templates: itself, moved, with residues missing."""
    positions = np.stack([deep.positions + shift for shift in (0.0, 10.0, 20.0)]).astype(np.float32)
    mask = np.stack([deep.mask] * 3)
    mask[1, ::4] = mask[2, 5:9] = 0
    aatype = np.where(mask.any(-1), deep.aatype, GAP).astype(np.int8)
    return replace(deep, templates=Templates(aatype, positions * mask[..., None], mask))


@pytest.fixture(scope="session")
def distilled(deep: ChainRecord) -> ChainRecord:
    """``deep`` as an entry of the self-distillation set, its ends predicted badly."""
    length = len(deep.sequence)
    plddt = 90.0 * np.sin(np.linspace(0.0, np.pi, length)).astype(np.float32)
    return replace(deep, metadata=replace(deep.metadata, source="distillation"), plddt=plddt)
