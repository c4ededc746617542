"""Stage graphs -> one plan for each stage and bucket, and the facts that say what they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...errors import FoldlineError
from ...model.config import ModelConfig
from ...whole_file import write_atomic
from ..graphs import graph_path
from ..profiles import Profile, limits_of
from ..stages import Stage, stages
from .backend import TARGETS, cache_folder, load, new_logger, target_members, this_gpu
from .identity import file_sha256, identity_of
from .options import FIXED, FLAGS, STRIPPED, BuildOptions, settle_mode
from .weights import write_constants

NONE: Mapping[str, str] = MappingProxyType({})
NO_ALLOCATION = (
    "REQUIRE_USER_ALLOCATION"  # flag of newer builders: nothing is allocated while an engine runs, so that CUDA graphs can be captured
)


@dataclass(frozen=True)
class Job:
    """What all plans of a set have in common."""

    backend: str
    trt: Any
    logger: Any
    mode: str
    targets: tuple[Any, ...]
    options: BuildOptions


def build(
    backend: str,
    graphs: Path,
    model: ModelConfig,
    profiles: Sequence[Profile],
    out: Path,
    *,
    precision: str,
    weights_sha256: str,
    options: BuildOptions | None = None,
    plugins: Mapping[str, str] = NONE,
    on_stage: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Build every stage of ``model`` from the graphs in ``graphs`` for every profile into the folder ``out``; returns the engine's facts.

    ``plugins``: package -> version of the registered plugins whose nodes the graphs have. ``on_stage`` is told each plan as it is done.
    TensorRT tunes on the GPU that it builds on; TensorRT-RTX builds without one. Raises FoldlineError with the parser's or builder's words.
    """
    options = options or BuildOptions()
    trt, gpu = load(backend), this_gpu()
    mode = settle_mode(options, backend, gpu is not None)
    targets, architecture = _targets(backend, options, gpu)
    job = Job(backend, trt, new_logger(trt), mode, tuple(target_members(trt, backend, targets)), options)
    out.mkdir(parents=True, exist_ok=True)
    chain = stages(model)
    plans: dict[str, dict[str, Any]] = {profile.name: {} for profile in profiles}
    for stage in chain:
        for profile, plan in _build_stage(job, graph_path(graphs, stage.name), stage, profiles, out, gpu):
            plans[profile.name][stage.name] = plan
            on_stage(f"{stage.name} for {profile.name}: {plan['seconds']:.1f} s, {plan['bytes'] / 1e6:.1f} MB")
    facts: dict[str, Any] = {
        "backend": backend,
        "version": trt.__version__,
        "architecture": architecture,
        "precision": precision,
        "mode": mode,
        "weights": weights_sha256,
        "onnx": {stage.name: file_sha256(graph_path(graphs, stage.name)) for stage in chain},
        "profiles": [profile.to_dict() for profile in profiles],
        "limits": {dim: list(limit) for dim, limit in limits_of(profiles).items()},
        "plans": plans,
    }
    if plugins:
        facts["plugins"] = dict(plugins)
    if mode in STRIPPED:
        facts["parameters"] = write_constants(graphs, [stage.name for stage in chain], out)
    return facts | {"identity": identity_of(facts)}


def parse(trt: Any, backend: str, path: Path, logger: Any) -> tuple[Any, Any]:
    """A builder and the network of an ONNX file, whose weights may lie in a file beside it. FoldlineError with the parser's words."""
    if not path.is_file():
        raise FoldlineError(f"there is no graph {path}; export the bundle again")
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        errors = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors)) or logger.reason()
        raise FoldlineError(f"{backend} {trt.__version__} cannot parse {path.name}: {errors}")
    _decompose_attention(trt, network)
    return builder, network


def timing_file(folder: Path, version: str, gpu: Mapping[str, str]) -> Path:
    """Where timings of one TensorRT version on one kind of GPU are kept: they mean nothing on any other."""
    name = "".join(letter if letter.isalnum() else "-" for letter in gpu["name"])
    return folder / f"tensorrt-{version}-sm{gpu['compute_capability'].replace('.', '')}-{name}.timing"


def _targets(backend: str, options: BuildOptions, gpu: Mapping[str, str] | None) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Which GPUs to build for, and the fact that says so; a name where one kind of GPU alone can run the engine."""
    targets = options.compute_capabilities
    if backend == "tensorrt_rtx":
        here = (gpu["compute_capability"],) if gpu is not None else TARGETS
        built = targets or here
        # Without targets the builder takes the GPU in this machine, also where its list has no name for that kind.
        return (targets if gpu is not None else built), {"compute_capabilities": list(built), "name": None}
    assert gpu is not None  # settle_mode has seen to it
    name = None if options.portable else gpu["name"]
    return targets, {"compute_capabilities": [gpu["compute_capability"]], "name": name}


def _build_stage(
    job: Job, path: Path, stage: Stage, profiles: Sequence[Profile], out: Path, gpu: Mapping[str, str] | None
) -> Iterator[tuple[Profile, dict[str, Any]]]:
    """Parse once, build once for each profile."""
    builder, network = parse(job.trt, job.backend, path, job.logger)
    found = {network.get_input(i).name for i in range(network.num_inputs)}
    if found != set(stage.inputs):
        raise FoldlineError(f"{path} takes {sorted(found)}, this version of Foldline feeds {sorted(stage.inputs)}; export the bundle again")
    for profile in profiles:
        start = time.monotonic()
        settings = _settings(job, builder, stage, profile)
        with _timings(job, settings, gpu):
            plan = builder.build_serialized_network(network, settings)
        if plan is None:
            raise FoldlineError(
                f"{job.backend} {job.trt.__version__} cannot build stage '{stage.name}' for profile {profile.name}: {job.logger.reason()}"
            )
        file = out / f"{stage.name}-{profile.name}.plan"
        file.write_bytes(plan)
        yield profile, {"file": file.name, "bytes": file.stat().st_size, "seconds": round(time.monotonic() - start, 2)}


def _settings(job: Job, builder: Any, stage: Stage, profile: Profile) -> Any:
    """The builder's configuration. The memory limit stays as it is: a lower one makes TensorRT-RTX refuse wide profiles."""
    trt, settings = job.trt, builder.create_builder_config()
    settings.clear_flag(trt.BuilderFlag.TF32)  # float32 in the graph means float32
    for flag in (*FLAGS[job.mode], NO_ALLOCATION):
        if flag in trt.BuilderFlag.__members__:
            settings.set_flag(trt.BuilderFlag.__members__[flag])
        elif flag != NO_ALLOCATION:
            raise FoldlineError(f"weights mode '{job.mode}': {job.backend} {trt.__version__} has no flag {flag}; use '{FIXED}'")
    if job.targets:
        settings.num_compute_capabilities = len(job.targets)
        for place, target in enumerate(job.targets):
            settings.set_compute_capability(target, place)
    if job.options.portable and job.backend == "tensorrt":
        settings.hardware_compatibility_level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    shapes = builder.create_optimization_profile()
    for name, schema in stage.inputs.items():
        shapes.set_shape(name, *profile.shapes(schema.dims))
    settings.add_optimization_profile(shapes)
    return settings


@contextmanager
def _timings(job: Job, settings: Any, gpu: Mapping[str, str] | None) -> Iterator[None]:
    """Start from kept timings and keep the new ones; TensorRT-RTX compiles at load, measures nothing here and must not get a cache."""
    if job.backend != "tensorrt" or gpu is None:
        yield
        return
    path = timing_file(cache_folder(job.options.cache), job.trt.__version__, gpu)
    cache = settings.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    settings.set_timing_cache(cache, False)
    yield
    write_atomic(path, bytes(cache.serialize()))


def _decompose_attention(trt: Any, network: Any) -> None:
    """Let the builder take attention nodes (opset 23) apart where it has no fused kernel (float32, 8 channels): it would fail."""
    kind = getattr(trt.LayerType, "ATTENTION_INPUT", None)
    for layer in (network.get_layer(i) for i in range(network.num_layers)) if kind is not None else ():
        if layer.type == kind:
            layer.__class__ = trt.IAttentionInputLayer  # the binding hands out the base class; this is its documented downcast
            layer.attention.decomposable = True
