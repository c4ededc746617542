"""The gate passes an engine that folds like PyTorch and refuses one that does not, whatever the way in which it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foldline.data_store.config import FeatureConfig
from foldline.data_store.featurize import inference_cycles
from foldline.data_store.types import ChainRecord, FeatureBatch
from foldline.errors import FoldlineError
from foldline.export import command, gate_checks, gating
from foldline.export.config import GateConfig, LimitKeys, load_export_config
from foldline.export.gate import GateReport, require, run_gate
from foldline.export.gate_checks import Check
from foldline.export.gate_proteins import BUNDLED, GateProtein, Selection, select_proteins
from foldline.export.runners import Runner, TorchRunner
from foldline.model.alphafold import AlphaFold
from foldline.tests.export import cases, gate_cases
from foldline.tests.export.conftest import SHORT_GATE

FEATURES = FeatureConfig(max_msa_clusters=4, max_extra_msa=4, max_templates=0)
CONFIG = GateConfig(recycles=1, padding=3)
LIMITS = {"N_res": (4, 64), "N_clust": (2, 8), "N_extra": (1, 8), "N_templ": (1, 1)}


@pytest.fixture(scope="module", params=list(cases.CONFIGS))
def model(request: pytest.FixtureRequest) -> AlphaFold:
    return cases.model_of(cases.CONFIGS[request.param]())


@pytest.fixture(scope="module")
def small() -> AlphaFold:
    return cases.model_of(cases.small())


@pytest.fixture
def one(records: dict[str, ChainRecord]) -> Selection:
    return Selection((GateProtein(records["1ajj_A"], "given"),), ())


def gate(model: AlphaFold, engine: Runner, selection: Selection, config: GateConfig = CONFIG, precision: str = "fp32") -> GateReport:
    return run_gate(TorchRunner(model), engine, selection, FEATURES, config, precision)


def cycles(selection: Selection) -> tuple[FeatureBatch, ...]:
    return inference_cycles(selection.proteins[0].record, FEATURES, CONFIG.seed, CONFIG.recycles + 1)


def failed(report: GateReport) -> set[str]:
    return {check.name for check in report.failures}


def test_a_faithful_engine_passes(model: AlphaFold, one: Selection) -> None:
    report = gate(model, gate_cases.Limited(TorchRunner(model), LIMITS), one)
    require(report)
    names = {check.name for check in report.checks}
    assert {"RMSD of all atoms", "change of lDDT-Cα", "change of mean pLDDT", "position change by padding"} <= names
    assert "sizes outside the limits that are not refused" in names
    assert ("change of pTM" in names) == model.config.heads.pae_enabled
    written = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert written["passed"] is True
    assert (written["proteins"][0]["rows"], written["proteins"][0]["clusters"], written["proteins"][0]["extra"]) == (50, 4, 4)


def test_a_moved_weight_is_refused(model: AlphaFold, one: Selection) -> None:
    report = gate(model, gate_cases.moved(model, "structure.backbone_update.bias", 0.02), one)
    assert "position error of the worst atom" in failed(report)
    with pytest.raises(FoldlineError, match=r"1ajj_A: position error of the worst atom .* Å, limit 0.1 Å"):
        require(report)


def test_a_missing_bias_is_refused(small: AlphaFold, one: Selection) -> None:
    """A refit or an optimiser that forgets one: a bias of each kind of module, from the first layer to the last head."""
    biases = {name.split(".")[0]: name for name, value in small.named_parameters() if name.endswith("bias") and value.abs().max() > 0.05}
    assert len(biases) >= 4
    passed = [name for name in biases.values() if not gate(small, gate_cases.dropped(small, name), one).failures]
    assert [name for name in passed if not name.startswith("template")] == []  # there are no templates here


FAULTS = {
    gate_cases.shake: "values that change when run again",
    gate_cases.leak_padding: "position change by padding",
    gate_cases.leak_rows: "position change by padding",
    gate_cases.leak_confidence: "pLDDT change by padding",
    gate_cases.break_down: "values that are not finite",
    gate_cases.lose_an_atom: "different atoms",
    gate_cases.scatter: "RMSD of all atoms",
    gate_cases.lose_confidence: "change of pLDDT, worst residue",
    gate_cases.lose_all_confidence: "change of mean pLDDT",
    gate_cases.lose_alignment: "change of pTM",
    gate_cases.lose_distances: "distogram probability error",
    gate_cases.shrink: "change of lDDT-Cα",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_kind_of_fault_is_named(small: AlphaFold, one: Selection, fault: Callable[..., None]) -> None:
    assert FAULTS[fault] in failed(gate(small, gate_cases.Broken(TorchRunner(small), fault), one))


def test_a_fault_in_the_mean_alone_is_found_by_the_mean(small: AlphaFold, one: Selection) -> None:
    report = gate(small, gate_cases.Broken(TorchRunner(small), gate_cases.scatter), one)
    assert failed(report) == {"RMSD of all atoms"}


@pytest.mark.parametrize("refuses", ["never", "without the limit", "by a crash"])
def test_an_engine_that_does_not_refuse_other_sizes_is_refused(small: AlphaFold, one: Selection, refuses: str) -> None:
    report = gate(small, gate_cases.Limited(TorchRunner(small), LIMITS, refuses), one)
    (check,) = [c for c in report.failures if c.name == "sizes outside the limits that are not refused"]
    assert check.value == 6  # N_res and N_clust on both sides; the lower limits of N_extra and N_templ are 1
    assert "N_res = 65" in str(check)


def sums_overflow(model: AlphaFold, factor: float) -> AlphaFold:
    """The same network in exact arithmetic: the outer product's factors are larger, its output layer smaller."""
    twin = cases.model_of(model.config)
    with torch.no_grad():
        for block in twin.modules():
            if type(block).__name__ == "OuterProductMean":
                for name in ("linear_a", "linear_b"):
                    for parameter in getattr(block, name).parameters():
                        parameter.mul_(factor)
                block.linear_out.weight.div_(factor**2)
    return twin


def test_sums_in_fp16_are_refused_by_the_limits_of_fp16_on_a_deep_alignment() -> None:
    """fp16 factors pass by the limits of fp16, and so does a network whose sums over 500 rows leave fp16's range; sums in fp16 do not."""
    (whole,) = select_proteins(None, (), GateConfig(bins=(128,), covered_bins=1), None).proteins
    deep = GateProtein(gate_cases.cropped(whole.record, 16), "given")
    assert deep.rows >= 500
    features = replace(FEATURES, max_msa_clusters=512)
    network = sums_overflow(cases.model_of(cases.bare()), 40.0)
    config, selection = replace(CONFIG, recycles=0), Selection((deep,), ())
    kept = run_gate(TorchRunner(network), gate_cases.half(network), selection, features, config, "fp16")
    require(kept)
    lost = run_gate(TorchRunner(network), gate_cases.HalfSummed(TorchRunner(network)), selection, features, config, "fp16")
    assert "values that are not finite" in failed(lost)


@pytest.mark.parametrize("name", [item.name for item in fields(LimitKeys)])
def test_every_limit_is_held(small: AlphaFold, one: Selection, name: str) -> None:
    """With one limit at 0 and the others far away, a slightly different engine is refused by the checks of that limit alone."""
    wide = {item.name: 1e9 for item in fields(LimitKeys)}
    report = gate(small, gate_cases.moved(small, "structure.backbone_update.bias", 0.02), one, replace(CONFIG, **wide | {name: 0.0}))
    of_limit = {
        "position_error": {"position error of the worst atom", "position change by padding"},
        "rmsd": {"RMSD of all atoms"},
        "lddt": {"change of lDDT-Cα"},
        "plddt": {"change of pLDDT, worst residue", "pLDDT change by padding"},
        "mean_plddt": {"change of mean pLDDT"},
        "ptm": {"change of pTM"},
        "pae": {"change of predicted aligned error, worst pair"},
        "distogram": {"distogram probability error"},
    }[name]
    assert failed(report) <= of_limit
    assert {check.name for check in report.checks if check.limit == 0.0 and check.name in of_limit} == of_limit
    if name not in ("pae", "distogram"):  # the structure module is behind the pairs: each pass of them is right
        assert failed(report)


def test_a_fault_in_one_pass_alone_is_found(small: AlphaFold, one: Selection) -> None:
    """Pairs are compared in every pass: a distogram that is wrong in the first pass is refused though the last one is right."""
    report = gate(small, gate_cases.Broken(TorchRunner(small), gate_cases.OneCall(gate_cases.lose_distances)), one)
    assert failed(report) == {"distogram probability error", "values that change when run again"}


def test_a_later_pass_that_changes_when_run_again_is_found(small: AlphaFold, one: Selection) -> None:
    report = gate(small, gate_cases.Broken(TorchRunner(small), gate_cases.OneCall(gate_cases.shake, 1)), one)
    assert failed(report) == {"values that change when run again"}


def test_a_fault_that_needs_templates_is_found(small: AlphaFold, one: Selection) -> None:
    """No protein of the gate has templates: one is folded once more with itself as templates, if the network reads any."""
    features = replace(FEATURES, max_templates=2)
    broken = gate_cases.Broken(TorchRunner(small), gate_cases.lose_templates)
    report = run_gate(TorchRunner(small), broken, one, features, CONFIG)
    assert "RMSD of all atoms" in failed(report)
    assert {check.protein for check in report.failures} == {"1ajj_A, templates"}
    assert [folded.origin for folded in report.proteins] == ["given", "itself as template"]
    assert not run_gate(TorchRunner(small), broken, one, features, replace(CONFIG, templates=False)).failures
    assert not run_gate(TorchRunner(small), broken, one, FEATURES, CONFIG).failures
    bare = TorchRunner(cases.model_of(cases.bare()))
    assert len(run_gate(bare, bare, one, features, CONFIG).proteins) == 1


def test_a_distance_at_the_edge_of_a_recycling_bin_is_no_fault(small: AlphaFold, one: Selection) -> None:
    """Positions that differ by rounding flip recycled distance bins. The fold after it is another one, every pass of it is right."""
    nudged = gate_cases.Nudged(TorchRunner(small), 2e-3)
    ours, theirs = (gate_checks.fold(runner, cycles(one)) for runner in (TorchRunner(small), nudged))
    apart = gate_checks.distogram_error(ours.last["distogram"], theirs.last["distogram"])
    limit = CONFIG.limits("fp32").distogram
    assert apart > 10 * limit
    report = gate(small, nudged, one)
    assert next(check for check in report.checks if check.name == "distogram probability error").value < limit / 10


def test_what_is_not_a_number_never_passes() -> None:
    report = GateReport("e", "r", (Check("p", "a", 0.1, 1.0, ""), Check("p", "a", float("nan"), 1.0, ""), Check("p", "a", 0.2, 1.0, "")))
    assert [np.isnan(check.value) for check in report.failures] == [True]
    assert np.isnan(report.worst["a"].value)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["checks"][1]["value"] == "nan"


@pytest.mark.slow
def test_the_gate_on_its_own_proteins_at_all_four_lengths() -> None:
    network = cases.model_of(cases.small())
    selection = select_proteins(None, (), GateConfig(), None)
    assert [protein.residues for protein in selection.proteins] == [122, 190, 285, 390]
    report = run_gate(TorchRunner(network), TorchRunner(cases.model_of(cases.small())), selection, FEATURES, GateConfig())
    require(report)
    assert BUNDLED.is_dir()
    worse = gate_cases.moved(network, "structure.backbone_update.bias", 0.02)
    shortest = Selection(selection.proteins[:1], selection.bins)
    assert failed(run_gate(TorchRunner(network), worse, shortest, FEATURES, GateConfig()))


def test_a_folder_of_the_users_own_stands_for_a_bin(tmp_path: Path) -> None:
    for file in BUNDLED.glob("1whi_A.*"):
        (tmp_path / file.name.replace("1whi_A", "mine")).write_bytes(file.read_bytes())
    config = GateConfig(bins=(128,), covered_bins=1, proteins=str(tmp_path))
    (protein,) = select_proteins(None, (), config, None).proteins
    assert (protein.name, protein.origin) == ("mine", "given")


def test_a_refused_engine_leaves_no_bundle(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is put between the export and the gate, where a builder's would be."""
    monkeypatch.setattr(gating, "TorchRunner", lambda model, *rest: gate_cases.moved(model, "structure.backbone_update.bias", 0.02))
    config = load_export_config(None, tuple(f"export.{key}" for key in (*SHORT_GATE, "engine=onnxruntime")))
    with pytest.raises(FoldlineError, match="so it is not published: 1ajj_A"):
        command.export_bundle(command.read_run(run_dir), tmp_path / "bundle", config, lambda text: None)
    assert list(tmp_path.iterdir()) == []
