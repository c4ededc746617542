"""Every engine kind under the laws of ``conformance.RunnerLaws``, and what pads and refuses around them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foldline.data_store.types import ChainRecord
from foldline.errors import FoldlineError
from foldline.export.graph import Arrays
from foldline.export.profiles import wide_profile
from foldline.export.runners import (
    Features,
    Limits,
    OnnxRuntimeRunner,
    Runner,
    State,
    TorchRunner,
    check_sizes,
    features_of,
    run_fitted,
)
from foldline.export.tensorrt import why_not
from foldline.export.tensorrt.single import TensorRTRunner, build_engine
from foldline.model.alphafold import AlphaFold
from foldline.tests.export.conformance import RunnerLaws, cycles_of


class TestTorch(RunnerLaws):
    def make(self, model: AlphaFold, graphs: Path, folder: Path) -> Runner:
        return TorchRunner(model)


class TestOnnxRuntime(RunnerLaws):
    def make(self, model: AlphaFold, graphs: Path, folder: Path) -> Runner:
        return OnnxRuntimeRunner(graphs, model.config, 1)


class TestTensorRT(RunnerLaws):
    backend = "tensorrt"
    atol_positions, atol_logits = 0.02, 1e-3

    def make(self, model: AlphaFold, graphs: Path, folder: Path) -> Runner:
        reason = why_not(self.backend)
        if reason is not None:
            pytest.skip(reason)
        profile = wide_profile(max_residues=80, typical_residues=60, max_clusters=16, max_extra=32, max_templates=8)
        build_engine(self.backend, graphs, profile, model.config, folder / "wide.plan")
        return TensorRTRunner(self.backend, folder / "wide.plan", model.config, profile.limits)


class TestTensorRTRTX(TestTensorRT):
    backend = "tensorrt_rtx"


class Picky:
    """A runner for certain sizes only, as an engine is."""

    def __init__(self, inner: Runner, limits: Limits, multiple: int) -> None:
        self.name, self.config, self.limits, self.multiple, self.inner = "picky", inner.config, limits, multiple, inner
        self.seen: list[int] = []

    def start(self, features: Features, previous: State | None) -> State:
        check_sizes(features, self)
        self.seen.append(len(features["aatype"]))
        return self.inner.start(features, previous)


class TestPicky(RunnerLaws):
    """The laws on a runner with limits, where no engine that has some can run."""

    def make(self, model: AlphaFold, graphs: Path, folder: Path) -> Runner:
        return Picky(TorchRunner(model), {"N_res": (48, 80), "N_clust": (4, 16), "N_extra": (4, 32)}, 8)


@pytest.fixture
def features(bare: tuple[AlphaFold, Path], records: dict[str, ChainRecord]) -> Arrays:
    return features_of(cycles_of(records["1ajj_A"], 1, 1, 0, 1)[0], bare[0].config)


@pytest.mark.parametrize(("limits", "multiple", "length"), [({"N_res": (50, 80)}, 8, 56), ({"N_clust": (4, 8)}, 1, 37), ({}, 8, 40)])
def test_short_inputs_are_padded_up_and_cut_back(
    bare: tuple[AlphaFold, Path], features: Arrays, limits: dict[str, tuple[int, int]], multiple: int, length: int
) -> None:
    inner = TorchRunner(bare[0])
    picky = Picky(inner, limits, multiple)
    with pytest.raises(FoldlineError, match=r"is outside (50|4)|N_res = 37 is no multiple of 8"):
        picky.start(features, None)
    padded, plain = run_fitted(picky, features), run_fitted(inner, features)
    assert picky.seen == [length]
    for name, value in plain.items():
        np.testing.assert_allclose(padded[name], value, atol=2e-3, err_msg=name)


def test_a_runner_leaves_the_model_it_was_given(bare: tuple[AlphaFold, Path], features: Arrays) -> None:
    model = bare[0].double()
    try:
        run_fitted(TorchRunner(model), features)
        assert {str(p.dtype) for p in model.parameters()} == {"torch.float64"}
    finally:
        model.float()


def test_a_named_backend_that_cannot_run_says_why() -> None:
    for backend in ("tensorrt", "tensorrt_rtx"):
        reason = why_not(backend)
        assert reason is None or ("pip install" in reason or "GPU" in reason)
