"""Folding with a bundle by the command line: what is written, that it is the engine's answer, and what bad input meets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gemmi
import numpy as np
import pytest

from foldline.cli import main
from foldline.data_store.config import FeatureConfig
from foldline.data_store.residues import ATOM_TYPES
from foldline.data_store.types import ChainRecord
from foldline.export.bundle import Bundle
from foldline.export.confidence import confidence_of
from foldline.export.core import Core
from foldline.export.engine_store import engines_of
from foldline.export.engines import choose, open_engine
from foldline.export.fold import Passes, predict
from foldline.export.runners import Runner
from foldline.tests.export.conftest import DEMO

SOURCE = "1ajj_A"


def bundle_runner(bundle: Bundle) -> tuple[Runner, FeatureConfig]:
    """What `fold` takes by itself."""
    core = Core.of(bundle)
    return open_engine(core, choose(bundle, "auto").engine), core.features


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One protein with its structure beside it, and one without."""
    folder = tmp_path_factory.mktemp("source")
    for file in DEMO.glob(f"{SOURCE}.*"):
        shutil.copy(file, folder)
    shutil.copy(DEMO / "2hba_A.a3m.gz", folder / "unknown.a3m.gz")
    return folder


@pytest.fixture(scope="session")
def folds(exported: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("folds") / "out"
    assert main(["fold", str(source), "--bundle", str(exported), "--out", str(out), "--recycles", "1"]) == 0
    return out


def test_every_file_is_there_and_nothing_else(folds: Path) -> None:
    found = {str(file.relative_to(folds)) for file in folds.rglob("*") if file.is_file()}
    each = {f"{n}/{n}{end}" for n in (SOURCE, "unknown") for end in (".cif", ".pdb", "_pae.json", "_scores.json", ".html")}
    assert found == each | {"index.html", "summary.json"}


def test_files_hold_the_engines_answer(folds: Path, exported: Path, records: dict[str, ChainRecord]) -> None:
    runner, features = bundle_runner(Bundle.open(exported))
    prediction = predict(runner, records[SOURCE], features, Passes(1), seed=0)
    structure = gemmi.read_structure(str(folds / SOURCE / f"{SOURCE}.cif"))
    residues = list(structure[0]["A"])
    assert gemmi.one_letter_code([r.name for r in residues]) == records[SOURCE].sequence
    for row, residue in enumerate(residues):
        for atom in residue:
            expected = prediction.structure.positions[row, ATOM_TYPES.index(atom.name)]
            np.testing.assert_allclose(atom.pos.tolist(), expected, atol=1e-3)
            assert atom.b_iso == pytest.approx(prediction.structure.plddt[row], abs=0.006)
    (pae,) = json.loads((folds / SOURCE / f"{SOURCE}_pae.json").read_text())
    np.testing.assert_allclose(pae["predicted_aligned_error"], prediction.pae, atol=0.51)


def test_scores_compare_with_the_experiment_where_there_is_one(folds: Path, exported: Path) -> None:
    summary = {row["name"]: row for row in json.loads((folds / "summary.json").read_text())}
    assert set(summary) == {SOURCE, "unknown"}
    assert 0 <= summary[SOURCE]["lddt_ca"] <= 1
    assert summary[SOURCE]["rmsd"] > 1  # random weights
    assert summary["unknown"]["lddt_ca"] is summary["unknown"]["rmsd"] is None
    scores = json.loads((folds / SOURCE / f"{SOURCE}_scores.json").read_text())
    assert scores["provenance"]["bundle"] == Bundle.open(exported).identity
    assert [name for name in scores["timings"]] == ["features", "pass 1", "pass 2", "confidence"]  # noqa: C416
    assert scores["mean_plddt"] == pytest.approx(np.mean(scores["plddt"]), abs=0.01)


def test_seed_decides_the_result(exported: Path, records: dict[str, ChainRecord]) -> None:
    runner, features = bundle_runner(Bundle.open(exported))
    first, same, other = (predict(runner, records["2hba_A"], features, Passes(0), seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.structure.positions, same.structure.positions)
    assert np.abs(first.structure.positions - other.structure.positions).max() > 1e-3


def test_confidence_without_the_error_head(records: dict[str, ChainRecord], exported: Path) -> None:
    runner, _ = bundle_runner(Bundle.open(exported))
    logits = np.random.default_rng(0).normal(size=(5, runner.config.heads.plddt_bins)).astype(np.float32)
    confidence = confidence_of({"plddt": logits}, runner.config.heads)
    assert confidence.pae is confidence.ptm is None
    assert ((confidence.plddt > 0) & (confidence.plddt < 100)).all()


def snapshot(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


BAD_FOLDS = {
    "no source": (["fold", "{tmp}/none", "--bundle", "{bundle}", "--out", "{tmp}/out"], "does not exist"),
    "no bundle": (["fold", "{source}", "--bundle", "{tmp}/none", "--out", "{tmp}/out"], "no bundle"),
    "not a bundle": (["fold", "{source}", "--bundle", "{source}", "--out", "{tmp}/out"], "manifest.json"),
    "results exist": (["fold", "{source}", "--bundle", "{bundle}", "--out", "{tmp}/full"], "never overwritten"),
    "out is a file": (["fold", "{source}", "--bundle", "{bundle}", "--out", "{tmp}/full/file"], "never overwritten"),
    "negative tolerance": (["fold", "{source}", "--bundle", "{bundle}", "--out", "{tmp}/out", "--tolerance", "-1"], "--tolerance -1"),
    "no tolerance": (["fold", "{source}", "--bundle", "{bundle}", "--out", "{tmp}/out", "--tolerance", "nan"], "--tolerance nan"),
    "negative recycles": (["fold", "{source}", "--bundle", "{bundle}", "--out", "{tmp}/out", "--recycles", "-1"], "--recycles -1"),
    "not an alignment": (["fold", "{tmp}/full/file", "--bundle", "{bundle}", "--out", "{tmp}/out"], "not read"),
    "no run": (["export", "--run", "{tmp}/none", "--out", "{tmp}/out"], "no config.json"),
    "bundle exists": (["export", "--run", "{run}", "--out", "{tmp}/full", "--engine", "onnxruntime"], "exists"),
    "untrained run": (["export", "--run", "{tmp}/untrained", "--out", "{tmp}/out"], "no weights yet"),
    "broken config": (["export", "--run", "{tmp}/broken", "--out", "{tmp}/out"], "config.json"),
    "no store": (["export", "--run", "{tmp}/storeless", "--out", "{tmp}/out", "--engine", "onnxruntime"], "data.store"),
    "other weights": (["export", "--run", "{tmp}/other", "--out", "{tmp}/out", "--engine", "onnxruntime"], "does not fit this model"),
}


@pytest.fixture
def desk(tmp_path: Path, run_dir: Path) -> Path:
    """A folder with a full output directory and several broken run directories."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    saved = json.loads((run_dir / "config.json").read_text())
    changes = {
        "untrained": saved,
        "broken": {"model": saved["model"]},
        "storeless": saved | {"data": saved["data"] | {"store": "nowhere"}},
        "other": saved | {"model": saved["model"] | {"c_z": 16}},
    }
    for name, config in changes.items():
        shutil.copytree(run_dir, tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    (tmp_path / "untrained" / "weights" / "ema.safetensors").unlink()
    return tmp_path


@pytest.mark.parametrize("case", BAD_FOLDS)
def test_bad_input_is_one_message_and_changes_nothing(
    case: str, desk: Path, exported: Path, run_dir: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = BAD_FOLDS[case]
    before = snapshot(desk)
    places = {"tmp": desk, "bundle": exported, "run": run_dir, "source": source}
    assert main([argument.format(**places) for argument in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("foldline: ")
    assert error.count("\n") == 0
    assert message in error
    assert snapshot(desk) == before


def test_an_engine_that_cannot_run_here_is_an_error(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from foldline.export.tensorrt import why_not

    reason = why_not("tensorrt")
    if reason is None:
        pytest.skip("tensorrt runs here")
    assert main(["export", "--run", str(run_dir), "--out", str(tmp_path / "b"), "--engine", "tensorrt"]) == 2
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_changed_weight_in_the_bundle_is_refused(
    exported: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(exported, copy)
    weights = bytearray((copy / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "weights.safetensors").write_bytes(weights)
    assert main(["fold", str(source), "--bundle", str(copy), "--out", str(tmp_path / "out")]) == 2
    assert "weights.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_bundle_can_be_rebuilt_from_itself(exported: Path, run_dir: Path) -> None:
    manifest = Bundle.open(exported).manifest
    assert (exported / "weights.safetensors").read_bytes() == (run_dir / "weights" / "ema.safetensors").read_bytes()
    assert manifest["files"]["weights.safetensors"] == manifest["weights"]["sha256"]
    saved = json.loads((run_dir / "config.json").read_text())
    assert (manifest["model"], manifest["features"]) == (saved["model"], saved["features"])
    stages = ("embed", "templates", "extra", "evoformer", "structure", "heads")
    assert set(manifest["files"]) == {"weights.safetensors", "graphs/fp32/weights.bin", *(f"graphs/fp32/{name}.onnx" for name in stages)}
    (engine,) = engines_of(exported)
    assert engine.gate is not None
    assert (engine.kind, engine.gate["passed"]) == ("onnxruntime", True)
