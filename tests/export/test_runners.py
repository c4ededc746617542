"""What holds for every runner. A new engine is added to ``RUNNERS`` and inherits all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foldline.data_store.config import FeatureConfig
from foldline.data_store.featurize import inference_cycles
from foldline.data_store.types import ChainRecord
from foldline.errors import FoldlineError
from foldline.export.graph import Arrays, feeds_of, input_schema, output_schema, pad_feeds, sizes_of
from foldline.export.profiles import wide_profile
from foldline.export.runners import OnnxRuntimeRunner, Runner, TorchRunner, check_sizes, run_fitted
from foldline.export.tensorrt import TensorRTRunner, build_engine, why_not
from foldline.model.alphafold import AlphaFold

FEATURES = FeatureConfig(max_msa_clusters=8, max_extra_msa=16, max_templates=1)


def torch_runner(model: AlphaFold, path: Path, folder: Path) -> Runner:
    return TorchRunner(model)


def onnx_runner(model: AlphaFold, path: Path, folder: Path) -> Runner:
    return OnnxRuntimeRunner(path, model.config, 1)


def tensorrt_runner(backend: str) -> Callable[[AlphaFold, Path, Path], Runner]:
    def make(model: AlphaFold, path: Path, folder: Path) -> Runner:
        reason = why_not(backend)
        if reason is not None:
            pytest.skip(reason)
        profile = wide_profile(max_residues=80, typical_residues=60, max_clusters=8, max_extra=16, max_templates=1)
        build_engine(backend, path, profile, model.config, folder / "wide.plan")
        return TensorRTRunner(backend, folder / "wide.plan", model.config, profile.limits)

    return make


RUNNERS = {
    "torch": torch_runner,
    "onnxruntime": onnx_runner,
    "tensorrt": tensorrt_runner("tensorrt"),
    "tensorrt_rtx": tensorrt_runner("tensorrt_rtx"),
}


@pytest.fixture(params=list(RUNNERS))
def runner(request: pytest.FixtureRequest, traced: tuple[AlphaFold, Path], made: dict[tuple[str, Path], Runner], tmp_path: Path) -> Runner:
    key = (request.param, traced[1])
    if key not in made:
        made[key] = RUNNERS[request.param](*traced, tmp_path)
    return made[key]


@pytest.fixture(scope="module")
def made() -> dict[tuple[str, Path], Runner]:
    """Runners by name and graph: engines take minutes to build."""
    return {}


@pytest.fixture
def feeds(runner: Runner, records: dict[str, ChainRecord]) -> Arrays:
    return feeds_of(inference_cycles(records["1ajj_A"], FEATURES, 0, 1)[0], runner.config, None)


def test_outputs_follow_the_schema(runner: Runner, feeds: Arrays) -> None:
    outputs = run_fitted(runner, feeds)
    n = sizes_of(feeds, input_schema(runner.config))["N_res"]
    expected = {name: tuple(n if d == "N_res" else d for d in field.dims) for name, field in output_schema(runner.config).items()}
    assert {name: value.shape for name, value in outputs.items()} == expected
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in outputs.values())


def test_the_numbers_are_pytorchs(runner: Runner, feeds: Arrays, traced: tuple[AlphaFold, Path]) -> None:
    ours = TorchRunner(traced[0]).run(feeds)
    theirs = run_fitted(runner, feeds)
    np.testing.assert_allclose(theirs["positions"], ours["positions"], atol=0.02)
    np.testing.assert_allclose(theirs["plddt"], ours["plddt"], atol=1e-3)


def test_the_same_input_gives_the_same_bits(runner: Runner, feeds: Arrays) -> None:
    once, again = run_fitted(runner, feeds), run_fitted(runner, feeds)
    for name, value in once.items():
        np.testing.assert_array_equal(value, again[name], err_msg=name)


def test_inputs_are_left_as_they_are(runner: Runner, feeds: Arrays) -> None:
    before = {name: value.copy() for name, value in feeds.items()}
    run_fitted(runner, feeds)
    for name, value in before.items():
        np.testing.assert_array_equal(feeds[name], value, err_msg=name)


def test_outputs_of_one_run_survive_the_next(runner: Runner, feeds: Arrays) -> None:
    once = run_fitted(runner, feeds)
    kept = {name: value.copy() for name, value in once.items()}
    run_fitted(runner, feeds | {"target_feat": np.roll(feeds["target_feat"], 1, 0)})
    for name, value in kept.items():
        np.testing.assert_array_equal(once[name], value, err_msg=name)


def test_what_does_not_fit_the_schema_is_refused(runner: Runner, feeds: Arrays) -> None:
    without = {name: value for name, value in feeds.items() if name != "aatype"}
    with pytest.raises(ValueError, match="aatype"):
        runner.run(without)
    with pytest.raises(ValueError, match="prev_z"):
        runner.run(feeds | {"prev_z": feeds["prev_z"][:-1]})
    with pytest.raises(ValueError, match="prev_x"):
        runner.run(feeds | {"prev_x": feeds["prev_x"][..., None]})


def test_every_limit_is_kept(runner: Runner, feeds: Arrays) -> None:
    schema = input_schema(runner.config)
    for name, (_, high) in runner.limits.items():
        with pytest.raises(FoldlineError, match=f"{name} = {high + 1} is outside"):
            runner.run(pad_feeds(feeds, schema, {name: high + 1}))


class Picky:
    """A runner for certain sizes only, as an engine is."""

    def __init__(self, inner: Runner, limits: dict[str, tuple[int, int]]) -> None:
        self.name, self.config, self.limits, self.inner = "picky", inner.config, limits, inner

    def run(self, feeds: Arrays) -> Arrays:
        check_sizes(feeds, input_schema(self.config), self.limits, self.name)
        return self.inner.run(feeds)


def test_short_inputs_are_padded_up_and_cut_back(traced: tuple[AlphaFold, Path], records: dict[str, ChainRecord]) -> None:
    model, _ = traced
    inner = TorchRunner(model)
    (batch,) = inference_cycles(records["1ajj_A"], FeatureConfig(max_msa_clusters=1, max_extra_msa=1), 0, 1)
    feeds = feeds_of(batch, model.config, None)
    picky = Picky(inner, {"N_res": (50, 80), "N_clust": (4, 8)})
    with pytest.raises(FoldlineError, match="N_res = 37 is outside 50"):
        picky.run(feeds)
    padded, plain = run_fitted(picky, feeds), inner.run(feeds)
    for name, value in plain.items():
        np.testing.assert_allclose(padded[name], value, atol=2e-3, err_msg=name)


def test_a_named_backend_that_cannot_run_says_why() -> None:
    for backend in ("tensorrt", "tensorrt_rtx"):
        reason = why_not(backend)
        assert reason is None or ("pip install" in reason or "GPU" in reason)
