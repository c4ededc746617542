"""Graphs traced once, a run directory and its bundle made once, for all export tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from foldline.cli import main
from foldline.data_store.config import DataConfig, FeatureConfig
from foldline.data_store.fold_input import read_fold_input
from foldline.data_store.types import ChainRecord
from foldline.model.alphafold import AlphaFold
from foldline.model.weights import save_weights
from foldline.settings import to_dict
from foldline.tests.export import cases
from foldline.tests.export.stage_chain import write_quickly

Traced = tuple[AlphaFold, Path]
DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"
NAMES = ("1ajj_A", "2hba_A")  # the shortest of the demo's proteins
# One of the store's chains, and no templates.
SHORT_GATE = ("gate.bins=[64]", "gate.covered_bins=1", "gate.deep_rows=0", "gate.templates=false", "bench.repeats=0")
FEATURES = FeatureConfig(max_msa_clusters=8, max_extra_msa=16, max_templates=2)


@pytest.fixture(scope="session")
def records() -> dict[str, ChainRecord]:
    return {record.metadata.chain_id: record for record in read_fold_input(DEMO) if record.metadata.chain_id in NAMES}


@pytest.fixture(scope="session")
def graphs_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Traced]:
    """A network and the folder of its stages' graphs, by configuration and precision.

    Each made once: pytest tears a session's parametrised fixtures down whenever the parameter changes.
    """

    @cache
    def make(name: str, precision: str) -> Traced:
        model = cases.model_of(cases.CONFIGS[name]())
        folder = tmp_path_factory.mktemp(f"{name}-{precision}")
        write_quickly(model, folder, precision)
        return model, folder

    return make


@pytest.fixture(params=list(cases.CONFIGS))
def traced(request: pytest.FixtureRequest, graphs_of: Callable[[str, str], Traced]) -> Traced:
    """A network and the folder of its graphs in float32, every configuration in turn."""
    return graphs_of(request.param, "fp32")


@pytest.fixture
def bare(graphs_of: Callable[[str, str], Traced]) -> Traced:
    """The smaller configuration alone."""
    return graphs_of("bare", "fp32")


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `foldline train` leaves, with random weights: config, averaged weights, and the store beside it."""
    root = tmp_path_factory.mktemp("trained")
    source = root / "source"
    source.mkdir()
    for file in DEMO.rglob("*.gz"):
        if file.name.startswith(NAMES):
            shutil.copy(file, source)
    assert main(["ingest", str(source), "--store", str(root / "store")]) == 0
    run = root / "run"
    (run / "weights").mkdir(parents=True)
    config = cases.small()
    save_weights(run / "weights" / "ema.safetensors", cases.model_of(config).state_dict(), {"step": "7"})
    data = DataConfig(store=str(root / "store"), validation=NAMES[:1])
    saved = {"model": to_dict(config), "features": to_dict(FEATURES), "data": to_dict(data)}
    (run / "config.json").write_text(json.dumps(saved))
    return run


@pytest.fixture(scope="session")
def exported(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of ``run_dir``, made by the command line."""
    out = tmp_path_factory.mktemp("exported") / "bundle"
    short = [f"--set=export.{key}" for key in SHORT_GATE]
    assert main(["export", "--run", str(run_dir), "--out", str(out), "--engine", "onnxruntime", *short]) == 0
    return out
