"""`foldline engine`: engines join a bundle gated or not at all, refits share what stays, and `auto` takes the best that may."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from foldline.cli import main
from foldline.data_store.types import ChainRecord
from foldline.errors import FoldlineError
from foldline.export import engines
from foldline.export.bundle import Bundle
from foldline.export.core import Core
from foldline.export.engine_store import Built, Engine, engines_of, find_engine, new_engine
from foldline.export.engines import choose, open_engine, why_not
from foldline.export.kinds import Order, kinds, settle
from foldline.export.runners import TorchRunner, features_of, run_fitted
from foldline.export.runners_torch import TorchKind
from foldline.model.weights import save_weights
from foldline.tests.export import cases
from foldline.tests.export.conformance import cycles_of
from foldline.tests.export.conftest import DEMO, SHORT_GATE

SHORT = [f"--set=export.{key}" for key in SHORT_GATE]
ONE_PASS = "--set=export.gate.recycles=0"  # recycling multiplies what float16 changes in a network of random weights


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A bundle of its own, with the engine that export built."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other weights of the bundle's network."""
    path = tmp_path_factory.mktemp("weights") / "new.safetensors"
    save_weights(path, cases.model_of(cases.small(), seed=1).state_dict(), {"step": "9"})
    return path


def build(bundle: Path, kind: str, *more: str) -> Engine:
    assert main(["engine", "build", str(bundle), "--kind", kind, *SHORT, *more]) == 0
    return engines_of(bundle)[-1]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one message of a command that ends with 2."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("foldline: ")
    assert error.count("\n") == 0
    return error


@pytest.fixture(scope="module")
def several(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with two more engines, one of which brought its own graphs."""
    bundle = Path(shutil.copytree(exported, tmp_path_factory.mktemp("several") / "bundle"))
    build(bundle, "torch")
    build(bundle, "onnxruntime", "--precision", "fp16", "--device", "cpu", ONE_PASS)
    return bundle


def test_built_engines_stand_beside_the_first_and_the_core_is_untouched(
    several: Path, exported: Path, records: dict[str, ChainRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, (_, torch_engine, half) = several, engines_of(several)
    before = Bundle.open(exported).identity
    assert Bundle.open(bundle).identity == before
    assert [engine.kind for engine in engines_of(bundle)] == ["onnxruntime", "torch", "onnxruntime"]
    assert all(engine.gate is not None and engine.gate["passed"] for engine in engines_of(bundle))
    assert set(half.facts["files"]) == {f"graphs/{name}" for name in snapshot(bundle / "graphs" / "fp32")}
    assert half.gate is not None
    assert (half.gate["precision"], half.gate["about"]["identity"]) == ("fp16", half.identity)
    features = features_of(cycles_of(records["1ajj_A"], 8, 16, 1, 1)[0], cases.small())
    core = Core.of(Bundle.open(bundle))
    full, own, rough = (run_fitted(open_engine(core, engine), features)["next_z"] for engine in (torch_engine, *engines_of(bundle)[::2]))
    assert np.abs(full - own).max() < 5e-4
    assert np.abs(full - rough).max() > 1e-4, "fp16 computes as fp32 does"
    capsys.readouterr()
    assert main(["engine", "ls", str(bundle)]) == 0
    table = capsys.readouterr().out
    assert all(engine.identity[:16] in table for engine in engines_of(bundle))
    assert table.count("folds") == 3


def test_the_same_engine_twice_and_other_bad_orders_change_nothing(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(bundle)
    command = ["engine", "build", str(bundle), *SHORT]
    assert "already" in failed(capsys, *command, "--kind", "onnxruntime")
    assert "not bf16" in failed(capsys, *command, "--kind", "onnxruntime", "--precision", "bf16", "--device", "cpu")
    assert "no device 'tensorrt'" in failed(capsys, *command, "--kind", "torch", "--device", "tensorrt")
    assert "is no bundle" in failed(capsys, "engine", "build", str(bundle / "graphs"), "--kind", "torch")
    if not torch.cuda.is_available():
        assert "GPU" in failed(capsys, *command, "--kind", "torch", "--device", "cuda")
        assert "tensorrt" in failed(capsys, *command, "--kind", "tensorrt")
    assert snapshot(bundle) == before


def test_an_engine_that_fails_its_gate_is_not_kept(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(bundle)

    def wrong(self: TorchKind, core: Core, engine: Engine) -> TorchRunner:
        model = core.network()
        with torch.no_grad():
            model.structure.backbone_update.bias += 0.02
        return TorchRunner(model)

    monkeypatch.setattr(TorchKind, "open", wrong)
    assert "position error" in failed(capsys, "engine", "build", str(bundle), "--kind", "torch", *SHORT)
    assert snapshot(bundle) == before


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Whether this machine runs the kind "torch", which it always builds."""

    def say(reason: str | None) -> None:
        monkeypatch.setattr(TorchKind, "why_not", lambda self, device: reason)

    monkeypatch.setattr(TorchKind, "why_not_build", lambda self, device: None)
    return say


def test_an_engine_that_was_only_built_waits_for_its_gate(
    bundle: Path, elsewhere: Callable[[str | None], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere("needs another machine")
    engine = build(bundle, "torch", "--device", "cpu")
    assert "not gated: needs another machine" in capsys.readouterr().out
    assert engine.gate is None
    elsewhere(None)
    fold = ["fold", str(DEMO / "1ajj_A.a3m.gz"), "--bundle", str(bundle), "--recycles", "0", "--engine", "torch", "--out"]
    message = failed(capsys, *fold, str(tmp_path / "out"))
    assert f"foldline engine gate {bundle} {engine.identity[:16]}" in message
    assert choose(Bundle.open(bundle), "auto").engine.kind == "onnxruntime"
    assert main(["engine", "gate", str(bundle), engine.identity[:8], *SHORT]) == 0
    assert main([*fold, str(tmp_path / "out")]) == 0
    scores = json.loads((tmp_path / "out" / "1ajj_A" / "1ajj_A_scores.json").read_text())
    assert scores["provenance"]["engine identity"] == engine.identity
    assert scores["provenance"]["engine"].startswith("torch fp32 on cpu, ")
    assert f"torch {torch.__version__}" in scores["provenance"]["engine"]
    assert "names no engine" in failed(capsys, "engine", "gate", str(bundle), "0123456789", *SHORT)


def add(bundle: Path, **changes: object) -> Engine:
    """An engine like the bundle's, but for some facts; with its gate."""
    first = engines_of(bundle)[0]
    with new_engine(bundle) as draft:
        engine = draft.seal(Built(dict(first.depends) | changes, {"threads": 1, "limits": {}}))
        cases.give_gate(engine, draft.folder.parent)
    return engines_of(bundle)[-1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "f" * 64}, "weights ffffffffffffffff"),
        ({"versions": {"onnxruntime": "0.1"}}, "versions onnxruntime 0.1"),
        ({"model": "f" * 64}, "model"),
        ({"graphs": {"embed": "f" * 64}}, "graphs embed ffffffffffffffff"),
        ({"machine": "9.0 NVIDIA H200"}, "machine 9.0 NVIDIA H200"),
    ],
)
def test_whatever_differs_is_named_and_the_engine_refused(bundle: Path, changes: dict[str, object], words: str) -> None:
    core = Core.of(Bundle.open(bundle))
    engine = add(bundle, **changes)
    assert words in str(why_not(core, engine))
    with pytest.raises(FoldlineError, match="build it again"):
        open_engine(core, engine)
    choice = choose(Bundle.open(bundle), "auto")
    assert choice.engine.identity != engine.identity
    with pytest.raises(FoldlineError, match=f"no engine .* can fold this here: not {engine.label}"):
        choose(Bundle.open(bundle), engine.identity[:8])


def test_auto_takes_the_fastest_that_takes_the_length(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "why_not_open", lambda core, engine: None)
    add(bundle, kind="torch")
    add(bundle, kind="tensorrt", device="cuda")
    add(bundle, kind="tensorrt", device="cuda", precision="bf16")
    add(bundle, kind="torch", device="cuda")
    opened, order = Bundle.open(bundle), []
    monkeypatch.setattr(engines, "why_not", lambda core, engine, longest: order.append(engine.label[:-9]) or "no")
    with pytest.raises(FoldlineError, match="no engine"):
        choose(opened, "auto")
    assert order == ["tensorrt bf16 cuda", "tensorrt fp32 cuda", "torch fp32 cuda", "onnxruntime fp32 cpu", "torch fp32 cpu"]


def test_an_engine_that_is_too_short_is_passed_over(bundle: Path) -> None:
    first = engines_of(bundle)[0]
    facts = dict(first.facts) | {"details": {"threads": 0, "limits": {"N_res": [8, 64]}}}
    short = replace(first, facts=facts)
    core = Core.of(Bundle.open(bundle))
    assert why_not(core, short, 64) is None
    assert "at most 64 residues, not 65" in str(why_not(core, short, 65))


def test_an_unknown_engine_lists_those_there_are(bundle: Path) -> None:
    with pytest.raises(FoldlineError, match=r"'tensorrt' is not in .*onnxruntime fp32 cpu .*foldline engine build"):
        choose(Bundle.open(bundle), "tensorrt")
    for name, kind in kinds().items():
        assert kind.name == name
        with pytest.raises(FoldlineError, match="has no device 'abacus'"):
            settle(kind, Order(device="abacus"))


def test_a_changed_byte_in_an_engine_is_named_when_it_is_opened(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = engines_of(bundle)[0].path / "gate.html"
    page.write_bytes(page.read_bytes() + b" ")
    out = bundle.parent / "out"
    assert "gate.html" in failed(capsys, "fold", str(DEMO / "1ajj_A.a3m.gz"), "--bundle", str(bundle), "--out", str(out))
    assert "gate.html" in failed(capsys, "engine", "ls", str(bundle))
    assert not out.exists()


def test_a_refit_is_a_new_bundle_of_the_new_weights(several: Path, weights: Path, tmp_path: Path, records: dict[str, ChainRecord]) -> None:
    bundle, before, new = several, snapshot(several), tmp_path / "new"
    assert main(["engine", "refit", str(bundle), "--weights", str(weights), "--out", str(new), *SHORT, ONE_PASS]) == 0
    assert snapshot(bundle) == before
    refitted = Bundle.open(new)
    assert (new / "weights.safetensors").read_bytes() == weights.read_bytes()
    assert (refitted.manifest["weights"]["step"], refitted.manifest["refitted_from"]) == ("9", Bundle.open(bundle).identity)
    assert [engine.kind for engine in engines_of(new)] == ["onnxruntime", "torch", "onnxruntime"]
    for name in ("embed.onnx", "evoformer.onnx"):
        assert (new / "graphs" / "fp32" / name).stat().st_ino == (bundle / "graphs" / "fp32" / name).stat().st_ino, "not shared"
    features = features_of(cycles_of(records["1ajj_A"], 8, 16, 1, 1)[0], cases.small())
    expected = run_fitted(TorchRunner(cases.model_of(cases.small(), seed=1)), features)
    for engine in engines_of(new):
        found = run_fitted(open_engine(Core.of(refitted), engine), features)
        np.testing.assert_allclose(found["next_m_1"], expected["next_m_1"], atol=5e-4 if engine.precision == "fp32" else 0.1)
        assert engine.identity not in {old.identity for old in engines_of(bundle)}


def test_a_refit_gives_what_an_export_of_the_same_weights_gives(
    bundle: Path, weights: Path, run_dir: Path, tmp_path: Path, exported: Path
) -> None:
    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    shutil.copy(weights, run / "weights" / "ema.safetensors")
    assert main(["engine", "refit", str(bundle), "--weights", str(weights), "--out", str(tmp_path / "refit"), *SHORT]) == 0
    assert main(["export", "--run", str(run), "--out", str(tmp_path / "fresh"), "--engine", "onnxruntime", *SHORT]) == 0
    for name in ("graphs", "weights.safetensors"):
        one, other = tmp_path / "refit" / name, tmp_path / "fresh" / name
        assert snapshot(one) == snapshot(other) if one.is_dir() else one.read_bytes() == other.read_bytes()
    refitted, fresh = (engines_of(tmp_path / name)[0] for name in ("refit", "fresh"))
    assert refitted.identity == fresh.identity


def wrong_name(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("linear_s", "linear_t"): value for name, value in state.items()}


def wrong_shape(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return state | {"evoformer.linear_s.bias": torch.zeros(3)}


def lost(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if name != "evoformer.linear_s.bias"}


def broken(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return state | {"evoformer.linear_s.bias": state["evoformer.linear_s.bias"] * float("nan")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (wrong_name, "unknown: evoformer.linear_t"),
        (wrong_shape, "misshapen: evoformer.linear_s.bias is 3"),
        (lost, "missing: evoformer.linear_s.bias"),
        (broken, "'evoformer.linear_s.bias' has values that are not finite"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(
    bundle: Path,
    weights: Path,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad, before = bundle.parent / "bad.safetensors", snapshot(bundle)
    save_weights(bad, change(load_file(weights)))
    out = bundle.parent / "new"
    assert words in failed(capsys, "engine", "refit", str(bundle), "--weights", str(bad), "--out", str(out), *SHORT)
    assert not out.exists()
    assert snapshot(bundle) == before


def test_a_refit_that_fails_its_gate_leaves_no_bundle(
    bundle: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a builder's refit that forgot one weight would."""
    import foldline.export.building as building

    real, old = building.write_weights, load_file(bundle / "weights.safetensors")
    name = "structure.backbone_update.bias"
    monkeypatch.setattr(building, "write_weights", lambda graphs, tensors: real(graphs, tensors | {name: old[name] + 1}))
    out = bundle.parent / "new"
    message = failed(capsys, "engine", "refit", str(bundle), "--weights", str(weights), "--out", str(out), *SHORT)
    assert "position error of the worst atom" in message
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["bundle"]


def test_a_refit_goes_nowhere_that_is_taken_and_says_what_cannot_follow(
    bundle: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["engine", "refit", str(bundle), "--weights", str(weights), *SHORT, "--out"]
    assert "exists" in failed(capsys, *command, str(bundle))
    nowhere = ["--weights", str(bundle / "none"), "--out", str(bundle.parent / "n")]
    assert "no weights at" in failed(capsys, "engine", "refit", str(bundle), *nowhere)
    add(bundle, versions={"onnxruntime": "0.1"})
    assert main([*command, str(bundle.parent / "new")]) == 0
    assert "left out: onnxruntime fp32 cpu" in capsys.readouterr().out
    assert len(engines_of(bundle.parent / "new")) == 1
    shutil.rmtree(find_engine(bundle, engines_of(bundle)[0].identity).path)
    assert "no engine" in failed(capsys, *command, str(bundle.parent / "other"))
    assert not (bundle.parent / "other").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch-compile", "aotinductor"])
def test_compiled_engines_are_built_folded_with_and_refitted(bundle: Path, weights: Path, kind: str) -> None:
    """In processes of their own: torch's compilers cannot trace functions in which annotations are checked, as they are in this one."""

    def foldline(*arguments: str) -> None:
        done = subprocess.run([sys.executable, "-m", "foldline.cli", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    new, out = bundle.parent / "new", bundle.parent / "out"
    foldline("engine", "build", str(bundle), "--kind", kind, "--device", "cpu", *SHORT)
    foldline("engine", "refit", str(bundle), "--weights", str(weights), "--out", str(new), *SHORT)
    engine, refitted = (next(one for one in engines_of(where) if one.kind == kind) for where in (bundle, new))
    assert refitted.gate is not None
    for name in refitted.facts["files"]:
        assert (refitted.path / name).stat().st_ino == (engine.path / name).stat().st_ino
    foldline("fold", str(DEMO / "1ajj_A.a3m.gz"), "--bundle", str(new), "--out", str(out), "--recycles", "1", "--engine", kind)
