"""Which engine a bundle gets, how it is built, and how it is opened again."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..data_store.config import FeatureConfig
from ..errors import FoldlineError
from ..model.config import ModelConfig
from ..settings import from_dict
from .bundle import ENGINE_DIR, ONNX, Bundle
from .config import ExportConfig
from .profiles import Profile, wide_profile
from .runners import OnnxRuntimeRunner, Runner
from .tensorrt import load, why_not
from .tensorrt.single import TensorRTRunner, build_engine

ENGINES = ("onnxruntime", "tensorrt", "tensorrt_rtx")
PACKAGES = ("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "numpy", "gemmi")


@dataclass(frozen=True)
class Choice:
    """The engine that was chosen, and why it and no other."""

    name: str
    reason: str


def choose_engine(wanted: str) -> Choice:
    """``wanted`` as it is, or for "auto" the first of TensorRT, TensorRT-RTX and ONNX Runtime that runs here.

    Raises FoldlineError with the reason when an engine was named that cannot run, and for an unknown name.
    """
    if wanted == "auto":
        reasons: list[str] = []
        for name in ("tensorrt", "tensorrt_rtx"):
            obstacle = why_not(name)
            if obstacle is None:
                return Choice(name, "; ".join([f"{name} runs here", *reasons]))
            reasons.append(f"not {name}: {obstacle}")
        return Choice("onnxruntime", "; ".join(reasons))
    if wanted not in ENGINES:
        raise FoldlineError(f"engine '{wanted}' is unknown; choose from auto, {', '.join(ENGINES)}")
    obstacle = None if wanted == "onnxruntime" else why_not(wanted)
    if obstacle is not None:
        raise FoldlineError(obstacle)
    return Choice(wanted, "asked for")


def build(folder: Path, name: str, model: ModelConfig, features: FeatureConfig, config: ExportConfig) -> dict[str, Any]:
    """Make engine ``name`` from the ONNX file in ``folder``; returns the manifest's entry for it."""
    if name == "onnxruntime":
        return {"name": name, "version": package_versions()["onnxruntime"], "file": ONNX, "threads": config.threads, "limits": {}}
    profile = profile_for(features, config)
    file = f"{ENGINE_DIR}/{profile.name}.plan"
    (folder / ENGINE_DIR).mkdir()
    identity = build_engine(name, folder / ONNX, profile, model, folder / file, config.compute_capability)
    limits = {dim: list(limit) for dim, limit in profile.limits.items()}
    return {"name": name, "version": load(name).__version__, "file": file, "identity": identity, "limits": limits}


def open_runner(folder: Path, engine: dict[str, Any], model: ModelConfig) -> Runner:
    """The runner of a manifest's engine entry. Raises FoldlineError when it cannot run on this machine."""
    if engine["name"] == "onnxruntime":
        return OnnxRuntimeRunner(folder / engine["file"], model, engine["threads"])
    limits = {dim: (int(low), int(high)) for dim, (low, high) in engine["limits"].items()}
    return TensorRTRunner(engine["name"], folder / engine["file"], model, limits)


def bundle_runner(bundle: Bundle) -> tuple[Runner, FeatureConfig]:
    """An opened bundle's runner, and the features that its network was trained on."""
    where = str(bundle.path)
    model = from_dict(ModelConfig, bundle.manifest["model"], where)
    return open_runner(bundle.path, bundle.manifest["engine"], model), from_dict(FeatureConfig, bundle.manifest["features"], where)


def profile_for(features: FeatureConfig, config: ExportConfig) -> Profile:
    """The sizes an engine takes: every length up to the config's, the rows that the features make."""
    return wide_profile(
        max_residues=config.max_residues,
        typical_residues=config.typical_residues,
        max_clusters=features.max_msa_clusters,
        max_extra=features.max_extra_msa,
        max_templates=features.max_templates,
    )


def package_versions() -> dict[str, str]:
    """Versions of the packages that shape an engine; those that are not installed are left out."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        for name in (package, f"{package.replace('_', '-')}-cu13", f"{package.replace('_', '-')}-cu12"):
            try:
                found.setdefault(package, version(name))
            except PackageNotFoundError:
                continue
    return found
