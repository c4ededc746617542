"""Engine sets of TensorRT-RTX are built for real, which needs no GPU; what they compute is tested where there is one."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from foldline.cli import main
from foldline.data_store.config import FeatureConfig
from foldline.data_store.types import ChainRecord
from foldline.errors import FoldlineError
from foldline.export.command import order_of
from foldline.export.config import load_export_config
from foldline.export.graphs import graph_path, write_graphs
from foldline.export.kinds import Order
from foldline.export.profiles import Profile, bucket_profiles
from foldline.export.recycling import recycle
from foldline.export.runners import Runner
from foldline.export.stages import stages
from foldline.export.tensorrt import BuildOptions, TensorRTRunner, build, load, refit, why_not
from foldline.export.tensorrt.backend import TARGETS, cache_folder, new_logger
from foldline.export.tensorrt.builder import Job, _timings, parse, timing_file
from foldline.export.tensorrt.engine import Runtime, read_plan
from foldline.export.tensorrt.identity import IDENTITY, check, check_gpu, file_sha256, identity_of, runs_on
from foldline.export.tensorrt.options import settle_mode
from foldline.model.alphafold import AlphaFold
from foldline.model.config import model_1_ptm
from foldline.model.weights import save_weights
from foldline.tests.export.cases import model_of
from foldline.tests.export.conformance import RunnerLaws, cycles_of

Graphs = Callable[[str, str], tuple[AlphaFold, Path]]
FEATURES = FeatureConfig(max_msa_clusters=8, max_extra_msa=16, max_templates=2)
GPU = {"name": "NVIDIA H200", "compute_capability": "9.0"}
FACTS: dict[str, Any] = {
    "backend": "tensorrt",
    "version": "11.4.0",
    "architecture": {"compute_capabilities": ["9.0"], "name": "NVIDIA H200"},
    "precision": "bf16",
    "mode": "strip",
    "weights": "a" * 64,
    "onnx": {"embed": "b" * 64, "heads": "c" * 64},
    "profiles": [profile.to_dict() for profile in bucket_profiles((64,), FEATURES)],
}
FACTS["identity"] = identity_of(FACTS)

needs_rtx = pytest.mark.skipif(
    why_not("tensorrt_rtx") is not None and "pip install" in str(why_not("tensorrt_rtx")), reason=str(why_not("tensorrt_rtx"))
)


def build_stages(names: Sequence[str], made: tuple[AlphaFold, Path], out: Path, precision: str, lengths: Sequence[int]) -> dict[str, Any]:
    """Build these stages alone, as ``build`` builds all."""
    chosen = tuple(stage for stage in stages(made[0].config) if stage.name in names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foldline.export.tensorrt.builder.stages", lambda config: chosen)
        profiles = bucket_profiles(lengths, FEATURES)
        return build("tensorrt_rtx", made[1], made[0].config, profiles, out, precision=precision, weights_sha256="a" * 64)


@needs_rtx
def test_a_network_becomes_an_engine_set(graphs_of: Graphs, tmp_path: Path) -> None:
    """Every stage of a small network in bfloat16; the others' trunks are below."""
    model, graphs = graphs_of("bare", "bf16")
    told: list[str] = []
    profiles = bucket_profiles((64,), FEATURES)
    facts = build("tensorrt_rtx", graphs, model.config, profiles, tmp_path, precision="bf16", weights_sha256="a" * 64, on_stage=told.append)
    names = [stage.name for stage in stages(model.config)]
    assert [text.split(" for 64")[0] for text in told] == names == list(facts["plans"]["64"])
    assert facts == json.loads(json.dumps(facts))
    assert {file.name for file in tmp_path.iterdir()} == {f"{name}-64.plan" for name in names}
    for name, plan in facts["plans"]["64"].items():
        assert plan["bytes"] == (tmp_path / plan["file"]).stat().st_size > 50_000
        assert facts["onnx"][name] == file_sha256(graph_path(graphs, name))
    if not torch.cuda.is_available():
        assert (facts["mode"], facts["architecture"]) == ("fixed", {"compute_capabilities": list(TARGETS), "name": None})
    assert facts["identity"] == identity_of(facts)
    assert tuple(Profile.from_dict(saved) for saved in facts["profiles"]) == profiles
    # The weights are in the plans: the same graphs with others give other plans.
    evoformer = (tmp_path / "evoformer-64.plan").read_bytes()
    weight = model.evoformer.blocks[0].msa_transition.linear_1.weight.detach().to(torch.bfloat16).contiguous()
    assert (
        weight.view(torch.uint8).numpy().tobytes()[:256] in evoformer
        or weight.T.contiguous().view(torch.uint8).numpy().tobytes()[:256] in evoformer
    )


@needs_rtx
def test_every_bucket_has_a_plan_of_its_own(graphs_of: Graphs, tmp_path: Path) -> None:
    facts = build_stages(("embed", "heads"), graphs_of("bare", "fp16"), tmp_path, "fp16", (32, 64))
    assert {bucket: list(plans) for bucket, plans in facts["plans"].items()} == {b: ["embed", "heads"] for b in ("32", "64")}
    assert len({file.read_bytes() for file in tmp_path.glob("*.plan")}) == 4


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_network_with_templates_becomes_an_engine_set_in_every_precision(graphs_of: Graphs, tmp_path: Path, precision: str) -> None:
    made = graphs_of("small", precision)
    facts = build_stages([stage.name for stage in stages(made[0].config)], made, tmp_path, precision, (64,))
    assert "templates" in facts["plans"]["64"]


@needs_rtx
def test_what_cannot_be_parsed_or_built_says_why_and_leaves_no_plan(graphs_of: Graphs, tmp_path: Path) -> None:
    made = graphs_of("bare", "fp32")
    broken, out = tmp_path / "graphs", tmp_path / "out"
    broken.mkdir()
    for file in made[1].iterdir():
        (broken / file.name).symlink_to(file)
    (broken / "heads.onnx").unlink()
    with pytest.raises(FoldlineError, match=r"no graph .*heads\.onnx; export the bundle again"):
        build_stages(["heads"], (made[0], broken), out, "fp32", (64,))
    (broken / "heads.onnx").write_bytes((made[1] / "heads.onnx").read_bytes()[:-1000])
    with pytest.raises(FoldlineError, match=r"tensorrt_rtx .* cannot parse heads\.onnx: "):
        build_stages(["heads"], (made[0], broken), out, "fp32", (64,))
    (broken / "heads.onnx").write_bytes((made[1] / "embed.onnx").read_bytes())
    with pytest.raises(
        FoldlineError, match=r"heads\.onnx takes \[.*'msa_feat'.*feeds \['next_z', 'structure_s'\]; export the bundle again"
    ):
        build_stages(["heads"], (made[0], broken), out, "fp32", (64,))
    (broken / "heads.onnx").write_bytes((made[1] / "heads.onnx").read_bytes())
    (broken / "weights.bin").unlink()
    with pytest.raises(FoldlineError, match=r"cannot parse heads\.onnx: "):
        build_stages(["heads"], (made[0], broken), out, "fp32", (64,))
    assert list(out.glob("*.plan")) == []


@needs_rtx
def test_builders_are_told_what_they_can_do(graphs_of: Graphs, tmp_path: Path) -> None:
    model, graphs = graphs_of("bare", "fp32")

    def attempt(**changes: Any) -> None:
        options = BuildOptions(**changes)
        profiles = bucket_profiles((64,), FEATURES)
        build("tensorrt_rtx", graphs, model.config, profiles, tmp_path, precision="fp32", weights_sha256="a" * 64, options=options)

    with pytest.raises(FoldlineError, match=r"capability '1\.0' is no target of tensorrt_rtx.*targets: 7\.5, 8\.0, 8\.6, 8\.9, 12\.0"):
        attempt(compute_capabilities=("8.9", "1.0"))
    if not torch.cuda.is_available():
        for mode in ("strip", "strip-identical"):
            with pytest.raises(FoldlineError, match=rf"weights mode '{mode}': tensorrt_rtx needs a GPU.*use 'fixed'"):
                attempt(mode=mode)
    with pytest.raises(FoldlineError, match="weights mode 'loose' is unknown; choose from auto, fixed, strip, strip-identical"):
        BuildOptions(mode="loose")
    assert settle_mode(BuildOptions(), "tensorrt", has_gpu=True) == "strip"
    assert settle_mode(BuildOptions(), "tensorrt_rtx", has_gpu=False) == "fixed"
    with pytest.raises(FoldlineError, match="there is none; build with tensorrt_rtx"):
        settle_mode(BuildOptions(), "tensorrt", has_gpu=False)


def test_what_a_build_is_asked_for_is_checked_before_anything_is_built() -> None:
    config = load_export_config(None, ('export.tensorrt.weights="strip"', "export.tensorrt.portable=true", "export.tensorrt.wide=1024"))
    order = order_of(config)
    assert (order.tensorrt.weights, order.tensorrt.portable, order.tensorrt.wide) == ("strip", True, 1024)
    assert Order().tensorrt.weights == "auto"
    with pytest.raises(FoldlineError, match=r"weights = 'loose' is none of auto, fixed, strip, strip-identical"):
        load_export_config(None, ('export.tensorrt.weights="loose"',))
    with pytest.raises(FoldlineError, match=r"export\.tensorrt\.wide = -8 must be at least 0"):
        load_export_config(None, ("export.tensorrt.wide=-8",))


@needs_rtx
def test_attention_nodes_may_be_taken_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opset 23's Attention with 8 channels in float32 has no fused kernel: the builder fails unless it may use plain operators."""
    shape = ["batch", 2, "length", 8]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("q", "k", "v", "o")]
    node = helper.make_node("Attention", ["q", "k", "v"], ["o"])
    graph = helper.make_graph([node], "attention", values[:3], values[3:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), tmp_path / "attention.onnx")
    trt = load("tensorrt_rtx")

    def plan() -> Any:
        builder, network = parse(trt, "tensorrt_rtx", tmp_path / "attention.onnx", new_logger(trt))
        settings, shapes = builder.create_builder_config(), builder.create_optimization_profile()
        settings.num_compute_capabilities = 1
        settings.set_compute_capability(trt.ComputeCapability.SM89, 0)
        for name in ("q", "k", "v"):
            shapes.set_shape(name, (1, 2, 8, 8), (2, 2, 16, 8), (4, 2, 64, 8))
        settings.add_optimization_profile(shapes)
        return builder.build_serialized_network(network, settings)

    assert plan() is not None
    monkeypatch.setattr("foldline.export.tensorrt.builder._decompose_attention", lambda trt, network: None)
    assert plan() is None


@needs_rtx
def test_a_plan_that_does_not_load_is_refused_with_the_runtimes_words(tmp_path: Path) -> None:
    trt = load("tensorrt_rtx")
    runtime = Runtime.start("tensorrt_rtx", trt)
    with pytest.raises(FoldlineError, match=r"embed-64\.plan is missing; copy the bundle again or build the engine again"):
        read_plan(runtime, tmp_path / "embed-64.plan")
    (tmp_path / "embed-64.plan").write_bytes(b"no plan at all " * 100)
    with pytest.raises(FoldlineError, match=r"tensorrt_rtx .* cannot load .*embed-64\.plan: .*magicTag.*build it again on this machine"):
        read_plan(runtime, tmp_path / "embed-64.plan")


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    for backend, extra in (("tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt-rtx")):
        with pytest.raises(FoldlineError, match=rf"pip install 'foldline\[{extra}\]'"):
            load(backend)


def test_a_package_too_old_or_broken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        __version__ = "10.13.3"

    monkeypatch.setattr(importlib, "import_module", lambda name: Old)
    with pytest.raises(FoldlineError, match=r"version 10\.13\.3 is older than 10\.14; run: pip install -U"):
        load("tensorrt")
    assert load("tensorrt_rtx") is Old, "its versions are counted from 1"

    def broken(name: str) -> None:
        raise OSError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(FoldlineError, match=r"installed but does not load: libnvinfer\.so\.11.*install it again"):
        load("tensorrt")


@pytest.mark.parametrize("key", IDENTITY)
def test_everything_an_engine_depends_on_changes_its_identity(key: str) -> None:
    assert identity_of(dict(FACTS)) == FACTS["identity"]
    assert identity_of(FACTS | {key: "other"}) != FACTS["identity"]
    assert identity_of(FACTS | {"plans": {}, "seconds": 1}) == FACTS["identity"], "what only describes does not count"


@pytest.mark.parametrize(
    ("here", "said"),
    [
        ({"version": "11.5.0"}, r"the package's version was 11\.4\.0, it is 11\.5\.0 here"),
        ({"weights": "d" * 64}, r"the weights' sha256 was a{16}\.\.\., it is d{16}\.\.\. here"),
        ({"precision": "fp32"}, "the precision was bf16, it is fp32 here"),
        ({"profiles": []}, r"the profiles was \[\{.*it is \[\] here"),
        ({"onnx": {"embed": "b" * 64, "heads": "d" * 64}}, r"stage 'heads' is another ONNX graph \(c{16}\.\.\. then, d{16}\.\.\. now\)"),
        ({"onnx": {"embed": "b" * 64}}, r"stage 'heads' is another ONNX graph \(c{16}\.\.\. then, absent now\)"),
        ({"version": "1", "weights": ""}, r"the package's version was .*; the weights' sha256 was "),
    ],
)
def test_what_does_not_match_refuses_to_load_and_says_which(here: dict[str, Any], said: str) -> None:
    check(FACTS, {"version": "11.4.0", "weights": "a" * 64, "onnx": FACTS["onnx"]}, "bundle/engines/x")
    with pytest.raises(FoldlineError, match=rf"engine bundle/engines/x does not fit: .*{said}.*build it again \(foldline engine build\)"):
        check(FACTS, here, "bundle/engines/x")


def test_facts_that_were_changed_afterwards_are_noticed() -> None:
    with pytest.raises(FoldlineError, match="its facts are not those that its identity was made of"):
        check(FACTS | {"precision": "fp32"}, {"version": "11.4.0"}, "x")


def test_another_gpu_refuses_to_load() -> None:
    check_gpu(FACTS, GPU, "x")
    with pytest.raises(FoldlineError, match=r"9\.0 \(NVIDIA H100\), it was built for 9\.0 \(NVIDIA H200 only\); build it on this"):
        check_gpu(FACTS, GPU | {"name": "NVIDIA H100"}, "x")
    portable = {"compute_capabilities": ["8.0", "9.0"], "name": None}
    assert runs_on(portable, GPU | {"name": "NVIDIA H100"})
    assert not runs_on(portable, GPU | {"compute_capability": "8.6"})


def test_timings_are_kept_apart_by_version_and_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        timing_file(tmp_path, version, gpu)
        for version in ("11.3.0", "11.4.0")
        for gpu in (GPU, GPU | {"name": "NVIDIA H100 80GB HBM3"}, GPU | {"compute_capability": "8.9"})
    }
    assert len(files) == 6
    assert timing_file(tmp_path, "11.4.0", GPU) == tmp_path / "tensorrt-11.4.0-sm90-NVIDIA-H200.timing"
    monkeypatch.setenv("FOLDLINE_CACHE", "/kept")
    assert (cache_folder(), cache_folder(tmp_path)) == (Path("/kept"), tmp_path)
    monkeypatch.delenv("FOLDLINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/users")
    assert cache_folder() == Path("/users/foldline")


def test_timings_are_read_and_kept_for_tensorrt_and_never_set_on_rtx(tmp_path: Path) -> None:
    """The configuration object is recorded by a strict stand-in: the real one of ``tensorrt`` needs a GPU."""

    class Cache:
        def __init__(self, start: bytes) -> None:
            self.start = start

        def serialize(self) -> bytes:
            return self.start + b"+new"

    class Settings:
        cache: Cache | None = None

        def create_timing_cache(self, start: bytes) -> Cache:
            return Cache(start)

        def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            self.cache = cache
            return True

    class Module:
        __version__ = "11.4.0"

    job = Job("tensorrt", Module, None, "strip", (), BuildOptions(cache=tmp_path))
    for expected in (b"", b"+new"):
        settings = Settings()
        with _timings(job, settings, GPU):
            assert settings.cache is not None
            assert settings.cache.start == expected
    assert timing_file(tmp_path, "11.4.0", GPU).read_bytes() == b"+new+new"
    settings = Settings()
    with _timings(replace(job, backend="tensorrt_rtx"), settings, GPU):
        assert settings.cache is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_a_runner_refuses_before_it_reads_anything() -> None:
    for backend in ("tensorrt", "tensorrt_rtx"):
        with pytest.raises(FoldlineError, match=r"needs an NVIDIA GPU|pip install"):
            TensorRTRunner(Path("/nowhere"), FACTS | {"backend": backend}, model_1_ptm())


class GpuLaws(RunnerLaws):
    """The laws on engines that run: only where there is a GPU and the package."""

    backend = ""
    atol_positions = 2e-2
    atol_logits = 5e-3

    def make(self, model: AlphaFold, graphs: Path, folder: Path) -> Runner:
        return engine_of(self.backend, model, folder)[0]

    def test_recorded_passes_are_the_plain_ones(self, records: dict[str, ChainRecord], graphs_of: Graphs, tmp_path: Path) -> None:
        model, _ = graphs_of("small", "fp32")
        recorded, facts = engine_of(self.backend, model, tmp_path)
        plain = TensorRTRunner(tmp_path / "engine", facts, model.config, cuda_graph=False)
        cycles = cycles_of(records["1ajj_A"], 8, 16, 1, 4)
        for _ in range(2):  # the second chain of equal sizes is replayed from its first pass on
            ours, theirs = recycle(plain, cycles).outputs, recycle(recorded, cycles).outputs
            for name, value in ours.items():
                np.testing.assert_array_equal(theirs[name], value, err_msg=name)
        assert recorded.not_recorded == {}

    def test_refitted_is_rebuilt(self, records: dict[str, ChainRecord], graphs_of: Graphs, tmp_path: Path) -> None:
        """Every output changes with the weights, and is what an engine built from the new ones gives."""
        model, _ = graphs_of("small", "fp32")
        other = model_of(model.config, seed=1)
        _, facts = engine_of(self.backend, model, tmp_path / "old")
        rebuilt, _ = engine_of(self.backend, other, tmp_path / "new")
        save_weights(tmp_path / "new.safetensors", other.state_dict())
        new = refit(tmp_path / "old" / "engine", facts, tmp_path / "new.safetensors", tmp_path / "refitted", "1" * 64)
        refitted = TensorRTRunner(tmp_path / "refitted", new, model.config)
        cycles = cycles_of(records["1ajj_A"], 8, 16, 1, 2)
        ours, theirs = recycle(rebuilt, cycles).outputs, recycle(refitted, cycles).outputs
        for name, value in ours.items():
            np.testing.assert_allclose(theirs[name], value, rtol=1e-4, atol=self.atol_positions, err_msg=name)


def engine_of(backend: str, model: AlphaFold, folder: Path) -> tuple[TensorRTRunner, dict[str, Any]]:
    """Graphs, engine and runner of a network in float32, two buckets."""
    reason = why_not(backend)
    if reason is not None:
        pytest.skip(reason)
    (folder / "graphs").mkdir(parents=True)
    write_graphs(model, folder / "graphs", "fp32")
    profiles = bucket_profiles((40, 64), FeatureConfig(max_msa_clusters=16, max_extra_msa=32, max_templates=8))
    out = folder / "engine"
    facts = build(backend, folder / "graphs", model.config, profiles, out, precision="fp32", weights_sha256="0" * 64)
    return TensorRTRunner(out, facts, model.config), facts


class TestTensorRT(GpuLaws):
    backend = "tensorrt"


class TestTensorRTRTX(GpuLaws):
    backend = "tensorrt_rtx"


@needs_rtx
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: the engine would be gated at once")
def test_the_command_adds_an_engine_that_waits_for_its_gate(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(exported, bundle)
    command = ["engine", "build", str(bundle), "--kind", "tensorrt_rtx", "--precision", "bf16", "--profiles", "32,64"]
    assert main(command) == 0
    capsys.readouterr()
    assert main(["engine", "ls", str(bundle)]) == 0
    listed = capsys.readouterr().out
    assert "tensorrt_rtx" in listed
    (engine,) = [file.parent for file in bundle.glob("engines/*/engine.json") if "tensorrt_rtx" in file.read_text()]
    assert len(list(engine.glob("*.plan"))) == 12  # six stages, two buckets
    assert not (engine / "gate.json").exists()
