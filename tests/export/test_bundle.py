"""A bundle is whole or absent, and one changed byte anywhere is found and named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foldline.errors import FoldlineError
from foldline.export.bundle import MANIFEST, Bundle, new_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    out = tmp_path / "bundle"
    with new_bundle(out, {"model": {"c_m": 32}}) as folder:
        (folder / "model.onnx").write_bytes(bytes(range(256)) * 20_000)  # longer than one read
        (folder / "weights.safetensors").write_bytes(b"w" * 100)
        (folder / "graphs").mkdir()
        (folder / "graphs" / "embed.onnx").write_bytes(b"graph")
    return out


def files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def test_what_was_put_in_comes_out(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.manifest["model"] == {"c_m": 32}
    assert set(opened.manifest["files"]) == {"model.onnx", "weights.safetensors", "graphs/embed.onnx"}
    assert len(opened.identity) == 64


def test_every_changed_byte_is_found_and_named(bundle: Path) -> None:
    for file in files(bundle):
        original = file.read_bytes()
        every_byte = range(len(original)) if file.name == MANIFEST else {0, len(original) // 2, len(original) - 1}
        for place in every_byte:
            file.write_bytes(original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :])
            with pytest.raises(FoldlineError, match=str(file.relative_to(bundle))):
                Bundle.open(bundle)
        file.write_bytes(original)
    Bundle.open(bundle)


def test_a_manifest_of_equal_meaning_is_still_another_file(bundle: Path) -> None:
    file = bundle / MANIFEST
    file.write_text(file.read_text().replace("\n", " ", 1))
    with pytest.raises(FoldlineError, match=MANIFEST):
        Bundle.open(bundle)


def test_missing_and_foreign_files_are_named(bundle: Path) -> None:
    foreign = bundle / "graphs" / "other.onnx"
    foreign.write_bytes(b"")
    with pytest.raises(FoldlineError, match=r"graphs/other\.onnx"):
        Bundle.open(bundle)
    foreign.unlink()
    (bundle / "graphs" / "embed.onnx").unlink()
    with pytest.raises(FoldlineError, match=r"graphs/embed\.onnx"):
        Bundle.open(bundle)


@pytest.mark.parametrize(("version", "words"), [(1, "older Foldline"), (99, "newer Foldline")])
def test_another_schema_version_says_so_and_what_to_do(bundle: Path, version: int, words: str) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps(manifest | {"schema_version": version, "run": "runs/mine"}))
    with pytest.raises(FoldlineError, match=rf"schema version {version}.*{words}.*foldline export --run runs/mine --out"):
        Bundle.open(bundle)


def test_what_lies_in_engines_is_no_part_of_the_core(bundle: Path) -> None:
    (bundle / "engines" / "abc").mkdir(parents=True)
    (bundle / "engines" / "abc" / "file").write_text("x")
    assert Bundle.open(bundle).identity
    (bundle / "engines2").mkdir()
    (bundle / "engines2" / "file").write_text("x")
    with pytest.raises(FoldlineError, match="engines2/file"):
        Bundle.open(bundle)


def interrupted_export(out: Path) -> None:
    with new_bundle(out, {}) as folder:
        (folder / "model.onnx").write_bytes(b"half")
        raise KeyboardInterrupt


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted_export(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_the_bundle_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    with new_bundle(tmp_path / "bundle", {}) as folder:
        (folder / "model.onnx").write_bytes(b"x")
        assert not (tmp_path / "bundle").exists()
    assert [file.name for file in files(tmp_path)] == [MANIFEST, "model.onnx"]


def test_an_existing_target_is_refused_and_kept(bundle: Path) -> None:
    before = {file: file.read_bytes() for file in files(bundle)}
    with pytest.raises(FoldlineError, match="exists"), new_bundle(bundle, {}):
        pass
    assert {file: file.read_bytes() for file in files(bundle)} == before


@pytest.mark.parametrize("kind", ["absent", "empty", "file"])
def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "empty":
        path.mkdir()
    elif kind == "file":
        path.write_text("hello")
    with pytest.raises(FoldlineError, match="no bundle"):
        Bundle.open(path)
