"""The ONNX file parses and builds with TensorRT-RTX, which needs no GPU for that. Running an engine needs one: see test_runners."""

from __future__ import annotations

from pathlib import Path

import pytest

from foldline.errors import FoldlineError
from foldline.export.profiles import wide_profile
from foldline.export.tensorrt import load
from foldline.export.tensorrt.single import build_engine, engine_identity
from foldline.model.alphafold import AlphaFold

PROFILE = wide_profile(max_residues=64, typical_residues=48, max_clusters=8, max_extra=16, max_templates=1)


@pytest.mark.slow
def test_an_exported_graph_builds(traced: tuple[AlphaFold, Path], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the package tensorrt_rtx (extra [tensorrt-rtx]) is not installed")
    model, path = traced
    identity = build_engine("tensorrt_rtx", path, PROFILE, model.config, tmp_path / "wide.plan")
    assert (tmp_path / "wide.plan").stat().st_size > path.stat().st_size
    assert len(identity) == 64
    (tmp_path / "broken.onnx").write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(FoldlineError, match=r"cannot parse broken\.onnx"):
        build_engine("tensorrt_rtx", tmp_path / "broken.onnx", PROFILE, model.config, tmp_path / "no.plan")
    with pytest.raises(FoldlineError, match=r"compute_capability = '1.0' is no target.*SM89"):
        build_engine("tensorrt_rtx", path, PROFILE, model.config, tmp_path / "no.plan", compute_capability="1.0")
    assert not (tmp_path / "no.plan").exists()


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.import_module", absent)
    for backend, extra in (("tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt-rtx")):
        with pytest.raises(FoldlineError, match=rf"pip install 'foldline\[{extra}\]'"):
            load(backend)


def test_everything_an_engine_depends_on_changes_its_identity(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"a")
    (tmp_path / "b.onnx").write_bytes(b"b")
    other = wide_profile(max_residues=65, typical_residues=48, max_clusters=8, max_extra=16, max_templates=1)
    first = ("tensorrt_rtx", "1.7", tmp_path / "a.onnx", PROFILE, "8.9")
    variants = [
        ("tensorrt", *first[1:]),
        (first[0], "1.8", *first[2:]),
        (*first[:2], tmp_path / "b.onnx", *first[3:]),
        (*first[:3], other, "8.9"),
        (*first[:4], "8.0"),
    ]
    identities = [engine_identity(*facts) for facts in [first, first, *variants]]
    assert identities[0] == identities[1]
    assert len(set(identities)) == 1 + len(variants)


def test_profile_shapes_follow_the_dimensions() -> None:
    low, typical, high = PROFILE.shapes(("N_clust", "N_res", 49))
    assert (low, typical, high) == ((4, 4, 49), (8, 48, 49), (8, 64, 49))
    assert PROFILE.limits["N_res"] == (4, 64)
