"""The gate passes an engine that folds like PyTorch and refuses one that does not, whatever the way in which it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from foldline.data_store.config import FeatureConfig
from foldline.data_store.types import ChainRecord
from foldline.errors import FoldlineError
from foldline.export import command
from foldline.export.config import ExportConfig, GateConfig
from foldline.export.gate import Check, GateReport, choose_proteins, require, run_gate
from foldline.export.graph import Arrays, output_schema
from foldline.export.runners import ArrayState, OnnxRuntimeRunner, Runner, State, TorchRunner
from foldline.model.alphafold import AlphaFold

FEATURES = FeatureConfig(max_msa_clusters=4, max_extra_msa=4, max_templates=0)
CONFIG = GateConfig(recycles=1, padding=3)


def perturb(source: Path, target: Path, name: str, by: float) -> None:
    """Move one initialiser of an ONNX file."""
    proto = onnx.load(source)
    (tensor,) = [t for t in proto.graph.initializer if t.name == name]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(by), name))
    onnx.save(proto, target)


class Broken:
    """A runner with a fault."""

    def __init__(self, inner: Runner, fault: Callable[[Arrays, Arrays], None]) -> None:
        self.name, self.config, self.limits, self.inner, self.fault = "broken", inner.config, inner.limits, inner, fault
        self.multiple = inner.multiple

    def start(self, features: Arrays, previous: State | None) -> State:
        outputs = self.inner.start(features, previous).fetch(list(output_schema(self.config)))
        self.fault(features, outputs)
        return ArrayState(outputs)


def gate(traced: tuple[AlphaFold, Path], engine: Runner, records: dict[str, ChainRecord], config: GateConfig = CONFIG) -> GateReport:
    return run_gate(TorchRunner(traced[0]), engine, [records["1ajj_A"]], FEATURES, config)


def test_a_faithful_engine_passes(traced: tuple[AlphaFold, Path], records: dict[str, ChainRecord]) -> None:
    report = gate(traced, OnnxRuntimeRunner(traced[1], traced[0].config, 1), records)
    require(report)
    names = {check.name for check in report.checks}
    assert {"RMSD of all atoms", "change of lDDT-Cα", "change of pLDDT", "position change by padding"} <= names
    assert ("change of pTM" in names) == traced[0].config.heads.pae_enabled
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["passed"] is True


def test_a_moved_weight_is_refused(traced: tuple[AlphaFold, Path], records: dict[str, ChainRecord], tmp_path: Path) -> None:
    model, path = traced
    perturb(path, tmp_path / "m.onnx", "structure.backbone_update.bias", 0.02)
    report = gate(traced, OnnxRuntimeRunner(tmp_path / "m.onnx", model.config, 1), records)
    assert "position error of the worst atom" in {check.name for check in report.failures}
    with pytest.raises(FoldlineError, match=r"1ajj_A: position error of the worst atom .* Å, limit 0.1 Å"):
        require(report)


def shake(feeds: Arrays, outputs: Arrays) -> None:
    outputs["positions"] += np.random.default_rng().normal(0, 1e-6, outputs["positions"].shape).astype(np.float32)


def lose_padding(feeds: Arrays, outputs: Arrays) -> None:
    if len(feeds["seq_mask"]) > feeds["seq_mask"].sum():
        outputs["positions"] += 1


def break_down(feeds: Arrays, outputs: Arrays) -> None:
    outputs["positions"][3] = np.nan


def lose_confidence(feeds: Arrays, outputs: Arrays) -> None:
    outputs["plddt"][0, 10:] -= 1


def lose_distances(feeds: Arrays, outputs: Arrays) -> None:
    outputs["distogram"][2, 3, 0] += 3


def lose_an_atom(feeds: Arrays, outputs: Arrays) -> None:
    outputs["atom_mask"][0, 0] = 0


FAULTS = {
    shake: "values that change when run again",
    lose_padding: "position change by padding",
    break_down: "values that are not finite",
    lose_confidence: "change of pLDDT",
    lose_distances: "distogram probability error",
    lose_an_atom: "different atoms",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_kind_of_fault_is_named(bare: tuple[AlphaFold, Path], records: dict[str, ChainRecord], fault: Callable[..., None]) -> None:
    engine = Broken(OnnxRuntimeRunner(bare[1], bare[0].config, 1), fault)
    assert FAULTS[fault] in {check.name for check in gate(bare, engine, records).failures}


def test_what_is_not_a_number_never_passes() -> None:
    report = GateReport("e", "r", (Check("p", "a", 0.1, 1.0, ""), Check("p", "a", float("nan"), 1.0, ""), Check("p", "a", 0.2, 1.0, "")))
    assert [np.isnan(check.value) for check in report.failures] == [True]
    assert np.isnan(report.worst["a"].value)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["checks"][1]["value"] == "nan"


def test_a_refused_engine_leaves_no_bundle(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is put between the export and the gate, where a builder's would be."""
    real = command.build

    def faulty(folder: Path, *rest: object) -> dict[str, object]:
        perturb(folder / "model.onnx", folder / "model.onnx", "structure.backbone_update.bias", 0.02)
        return real(folder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "build", faulty)
    with pytest.raises(FoldlineError, match="no bundle was written: 1ajj_A"):
        command.export_bundle(command.read_run(run_dir), tmp_path / "bundle", ExportConfig(engine="onnxruntime"), lambda text: None)
    assert list(tmp_path.iterdir()) == []


def test_the_shortest_chains_are_chosen() -> None:
    lengths = {"long": 300, "b": 90, "a": 50, "c": 40}
    assert choose_proteins(lengths, GateConfig(proteins=2)) == ["c", "a"]
    with pytest.raises(FoldlineError, match=r"at most 30 residues, and a, b, c, long is offered"):
        choose_proteins(lengths, GateConfig(max_residues=30))
