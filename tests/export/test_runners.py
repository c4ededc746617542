"""Every engine kind under the laws of ``conformance.RunnerLaws``, and what pads and refuses around them."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foldline.data_store.types import ChainRecord
from foldline.errors import FoldlineError
from foldline.export.graph import Arrays
from foldline.export.runners import Features, Limits, Runner, State, TorchRunner, check_sizes, compile_blocks, features_of, run_fitted
from foldline.export.runners_onnx import OnnxRuntimeKind, OnnxRuntimeRunner
from foldline.export.tensorrt import why_not
from foldline.model.alphafold import AlphaFold
from foldline.model.remat import Blocks
from foldline.tests.export.conformance import RunnerLaws, cycles_of


class TestTorch(RunnerLaws):
    test_the_numbers_are_pytorchs_at_every_size_and_pass = None  # type: ignore[assignment]  # it would be compared with itself
    test_recycled_tensors_are_pytorchs = None  # type: ignore[assignment]

    def make(self, model: AlphaFold, graphs: Path, folder: Path) -> Runner:
        return TorchRunner(model)


class TestOnnxRuntime(RunnerLaws):
    def make(self, model: AlphaFold, graphs: Path, folder: Path) -> Runner:
        return OnnxRuntimeRunner(graphs, model.config, "cpu", 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["TorchCompile", "AOTInductor"])
def test_compiled_kinds_keep_the_laws(kind: str) -> None:
    """In a process of its own: torch's compilers cannot trace functions in which annotations are checked, as they are in this one."""
    laws = [str(Path(__file__).with_name("compiled_laws.py")), "-k", kind, "-q", "-o", "addopts=--import-mode=importlib"]
    done = subprocess.run([sys.executable, "-m", "pytest", *laws], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")
class TestTorchCuda(RunnerLaws):
    atol_positions, atol_logits = 0.02, 1e-3

    def make(self, model: AlphaFold, graphs: Path, folder: Path) -> Runner:
        return TorchRunner(model, "cuda")


class TestOnnxRuntimeCuda(RunnerLaws):
    device = "cuda"
    atol_positions, atol_logits = 0.02, 1e-3

    def make(self, model: AlphaFold, graphs: Path, folder: Path) -> Runner:
        reason = OnnxRuntimeKind().why_not(self.device)
        if reason is not None:
            pytest.skip(reason)
        return OnnxRuntimeRunner(graphs, model.config, self.device)


class TestOnnxRuntimeTensorRT(TestOnnxRuntimeCuda):
    device = "tensorrt"


class Picky:
    """A runner for certain sizes only, as an engine is."""

    def __init__(self, inner: Runner, limits: Limits, multiple: int) -> None:
        self.name, self.config, self.limits, self.multiple, self.inner = "picky", inner.config, limits, multiple, inner
        self.seen: list[int] = []

    def start(self, features: Features, previous: State | None) -> State:
        check_sizes(features, self)
        self.seen.append(len(features["aatype"]))
        return self.inner.start(features, previous)


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


def test_lower_precision_is_near_and_not_equal(bare: tuple[AlphaFold, Path], features: Arrays) -> None:
    ours, theirs = (run_fitted(TorchRunner(bare[0], precision=name), features) for name in ("fp32", "bf16"))
    apart = np.abs(ours["next_z"] - theirs["next_z"]).max()
    assert 1e-5 < apart < 1
    assert bare[0].trunk_dtype is None


def test_every_block_of_every_stack_is_compiled(traced: tuple[AlphaFold, Path]) -> None:
    model = copy.deepcopy(traced[0])
    blocks = [block for stack in model.modules() if isinstance(stack, Blocks) for block in stack]
    assert compile_blocks(model) == len(blocks) >= 2
    assert all(block._compiled_call_impl is not None for block in blocks)


def test_onnxruntime_says_what_it_lacks(bare: tuple[AlphaFold, Path], tmp_path: Path) -> None:
    reason = OnnxRuntimeKind().why_not("cuda")
    assert reason is None or "onnxruntime-gpu" in reason or "GPU" in reason
    for file in bare[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:-50])
    with pytest.raises(FoldlineError, match=r"cannot load .*\.onnx"):
        OnnxRuntimeRunner(tmp_path, bare[0].config)
    with pytest.raises(FoldlineError, match="takes the inputs"):
        OnnxRuntimeRunner(bare[1], replace(bare[0].config, embedder=replace(bare[0].config.embedder, use_chain_relative=False)))
