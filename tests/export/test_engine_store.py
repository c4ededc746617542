"""An engine is sealed, appears whole or not at all, and one changed byte anywhere in it is found and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foldline.errors import FoldlineError
from foldline.export.engine_store import ENGINE, GATE, Built, Engine, engines_of, find_engine, new_engine
from foldline.tests.export.cases import give_gate

DEPENDS: dict[str, Any] = {"kind": "onnxruntime", "precision": "fp32", "device": "cpu", "weights": "a" * 64, "versions": {"x": "1"}}


def add(bundle: Path, **changes: Any) -> Engine:
    with new_engine(bundle) as draft:
        (draft.folder / "plans").mkdir()
        (draft.folder / "plans" / "embed.plan").write_bytes(b"plan" * 300)
        engine = draft.seal(Built(DEPENDS | changes, {"limits": {"N_res": (8, 64)}}))
        give_gate(engine, bundle)
    return engines_of(bundle)[-1]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return add(tmp_path)


def test_what_was_put_in_comes_out(engine: Engine, tmp_path: Path) -> None:
    assert engine.path == tmp_path / "engines" / engine.identity[:16]
    assert (engine.kind, engine.precision, engine.device, engine.limits) == ("onnxruntime", "fp32", "cpu", {"N_res": (8, 64)})
    assert engine.facts["bytes"] == 1200
    assert set(engine.facts["files"]) == {"plans/embed.plan"}
    assert engine.gate is not None
    assert engine.gate["passed"] is True
    engine.verify()


def test_every_changed_byte_is_found_and_named(engine: Engine) -> None:
    for file in sorted(path for path in engine.path.rglob("*") if path.is_file()):
        original = file.read_bytes()
        every_byte = range(len(original)) if file.name in (ENGINE, GATE) else {0, len(original) // 2, len(original) - 1}
        for place in every_byte:
            file.write_bytes(original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :])
            with pytest.raises(FoldlineError, match=file.name):
                Engine.read(engine.path).verify()
        file.write_bytes(original)
    Engine.read(engine.path).verify()


def test_missing_and_foreign_files_are_named(engine: Engine) -> None:
    foreign = engine.path / "other"
    foreign.write_text("")
    with pytest.raises(FoldlineError, match=r"other.*not part"):
        engine.verify()
    foreign.unlink()
    (engine.path / "plans" / "embed.plan").unlink()
    with pytest.raises(FoldlineError, match=r"embed\.plan.*missing"):
        engine.verify()


@pytest.mark.parametrize("name", list(DEPENDS))
def test_everything_an_engine_depends_on_changes_its_identity(engine: Engine, tmp_path: Path, name: str) -> None:
    assert add(tmp_path, **{name: "other"}).identity != engine.identity
    assert len(engines_of(tmp_path)) == 2


def test_the_same_engine_is_not_added_twice(engine: Engine, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FoldlineError, match="already"):
        add(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def interrupted(bundle: Path) -> None:
    with new_engine(bundle) as draft:
        (draft.folder / "half").write_bytes(b"x")
        raise KeyboardInterrupt


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_is_being_made_is_not_seen(engine: Engine, tmp_path: Path) -> None:
    with new_engine(tmp_path) as draft:
        assert engines_of(tmp_path) == (engine,)
        draft.seal(Built(DEPENDS | {"precision": "bf16"}, {}))
        assert engines_of(tmp_path) == (engine,)
    assert [one.precision for one in engines_of(tmp_path)] == ["fp32", "bf16"]
    assert engines_of(tmp_path)[1].gate is None


def test_a_report_of_another_engine_is_refused(engine: Engine, tmp_path: Path) -> None:
    other = add(tmp_path, precision="bf16")
    (other.path / GATE).write_bytes((engine.path / GATE).read_bytes())
    with pytest.raises(FoldlineError, match="another engine"):
        Engine.read(other.path)


def test_engines_are_found_by_the_beginning_of_their_identity(engine: Engine, tmp_path: Path) -> None:
    assert find_engine(tmp_path, engine.identity[:6]) == engine
    for name in ("", engine.identity[:3], "zzzzzz"):
        with pytest.raises(FoldlineError, match=engine.identity[:16]):
            find_engine(tmp_path, name)


def test_a_folder_that_is_no_engine_is_named(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "engines" / "mine").mkdir()
    with pytest.raises(FoldlineError, match=r"mine is no engine: it has no engine\.json"):
        engines_of(tmp_path)


def test_another_schema_version_says_what_to_do(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foldline.export.engine_store.SCHEMA_VERSION", 2)
    with pytest.raises(FoldlineError, match=r"schema version 1.*foldline engine build"):
        Engine.read(engine.path)
