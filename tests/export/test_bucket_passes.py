"""Passes by bucket in one arena: what a TensorRT engine set does around its plans, run for real with PyTorch as the stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foldline.data_store.config import FeatureConfig
from foldline.data_store.types import ChainRecord
from foldline.errors import FoldlineError
from foldline.export.graph import Arrays, crop_outputs, output_schema
from foldline.export.profiles import Profile, bucket_profiles
from foldline.export.recycling import recycle
from foldline.export.runners import Runner, TorchRunner, features_of, fit
from foldline.export.stages import Stage, stage_modules, stages
from foldline.export.tensorrt.launch import CAPTURE, PLAIN, REPLAY, Recording
from foldline.export.tensorrt.passes import BucketPass, Scratch, Shapes
from foldline.export.tensorrt.runner import BucketRunner
from foldline.model.alphafold import AlphaFold
from foldline.tests.export.cases import model_of, small
from foldline.tests.export.conformance import RunnerLaws, cycles_of

FEATURES = FeatureConfig(max_msa_clusters=16, max_extra_msa=32, max_templates=8)
BUCKETS = bucket_profiles((40, 64), FEATURES)
NEEDS = 5000  # bytes of scratch that a stage asks for


class ModuleStage:
    """A stage by PyTorch that reads and writes where it is told, and leaves rubbish in its scratch memory."""

    def __init__(self, stage: Stage, module: nn.Module) -> None:
        self.stage, self.module = stage, module
        self.prepared: list[Shapes] = []
        self.bound = 0

    def prepare(self, shapes: Shapes) -> int:
        self.prepared.append(shapes)
        return NEEDS + max(max(shape) for shape in shapes.values())

    def bind(self, tensors: Mapping[str, Tensor], scratch: Tensor) -> None:
        assert set(tensors) == {*self.stage.inputs, *self.stage.outputs}
        assert scratch.numel() >= NEEDS
        self.tensors, self.scratch, self.bound = tensors, scratch, self.bound + 1

    def enqueue(self) -> None:
        self.scratch.fill_(255)
        made = self.module(*(self.tensors[name] for name in self.stage.inputs))
        for name, value in zip(self.stage.outputs, made, strict=True):
            self.tensors[name].copy_(value)


class Watched(BucketRunner):
    """Counts the buckets that are opened."""

    def __init__(self, model: AlphaFold, profiles: tuple[Profile, ...] = BUCKETS) -> None:
        self.opened: dict[str, list[ModuleStage]] = {}
        modules = stage_modules(model)

        def open_bucket(profile: Profile) -> list[ModuleStage]:
            self.opened[profile.name] = [ModuleStage(stage, modules[stage.name]) for stage in stages(model.config)]
            return self.opened[profile.name]

        super().__init__("modules", model.config, profiles, open_bucket, torch.device("cpu"))


class TestBuckets(RunnerLaws):
    """The laws of all runners, over two buckets."""

    def make(self, model: AlphaFold, graphs: Path, folder: Path) -> Runner:
        return Watched(model)


@pytest.fixture(scope="module")
def model() -> AlphaFold:
    return model_of(small())


def test_a_bucket_is_opened_when_a_chain_first_needs_it(model: AlphaFold, records: dict[str, ChainRecord]) -> None:
    runner = Watched(model)
    assert (runner.multiple, runner.limits["N_res"], runner.limits["N_clust"]) == (8, (8, 64), (1, 16))
    recycle(runner, cycles_of(records["1ajj_A"], 8, 16, 1, 2))
    assert list(runner.opened) == ["40"]
    recycle(runner, cycles_of(records["2hba_A"], 8, 16, 1, 1))
    recycle(runner, cycles_of(records["1ajj_A"], 8, 16, 1, 1))
    assert list(runner.opened) == ["40", "64"]


def test_stages_are_prepared_and_bound_once_for_passes_of_equal_sizes(model: AlphaFold, records: dict[str, ChainRecord]) -> None:
    runner = Watched(model)
    recycle(runner, cycles_of(records["1ajj_A"], 8, 16, 1, 3))
    embed = runner.opened["40"][0]
    assert (len(embed.prepared), embed.bound) == (1, 1)
    assert embed.prepared[0]["msa_feat"] == (8, 40, 49)
    recycle(runner, cycles_of(records["1ajj_A"], 3, 5, 2, 1))  # fewer rows: padded to the same eights, but one template more
    assert (len(embed.prepared), embed.bound) == (2, 2)


def test_when_the_scratch_memory_moves_every_bucket_is_bound_again(model: AlphaFold, records: dict[str, ChainRecord]) -> None:
    runner, cycles = Watched(model), cycles_of(records["1ajj_A"], 8, 16, 1, 1)
    once = recycle(runner, cycles).outputs
    recycle(runner, cycles_of(records["2hba_A"], 8, 16, 1, 1))
    embed = runner.opened["40"][0]
    before = embed.bound
    runner._scratch.reserve(runner._scratch.memory.numel() + 1)
    again = recycle(runner, cycles).outputs
    assert embed.bound == before + 1
    for name, value in once.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_nothing_is_read_from_places_that_others_have_taken(model: AlphaFold, records: dict[str, ChainRecord]) -> None:
    """After each stage, every byte that the schedule says nobody needs any more is made NaN."""
    cycles = cycles_of(records["1ajj_A"], 8, 16, 1, 3)
    plain, poisoned = Watched(model), Watched(model)
    expected = recycle(plain, cycles).outputs

    def poison(bucket: BucketPass) -> None:
        for number, executor in enumerate(bucket._executors):
            executor.enqueue()
            needed = torch.zeros(bucket.schedule.arena, dtype=torch.bool)
            for slot in bucket.schedule.slots.values():
                if slot.first <= number < slot.last:
                    needed[slot.offset : slot.offset + slot.bytes] = True
            bucket._arena[~needed] = 255

    poisoned._launch = lambda profile, bucket, key: poison(bucket)  # type: ignore[method-assign]
    found = recycle(poisoned, cycles).outputs
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_passes_of_a_chain_may_change_buckets(records: dict[str, ChainRecord], model: AlphaFold) -> None:
    """Buckets by depth: the second pass has more rows than the first one's bucket takes."""
    residues = (8, 64, 64)
    rest = {"N_extra": (8, 16, 16), "N_templ": (1, 2, 2)}
    shallow = Profile("shallow", {"N_res": residues, "N_clust": (1, 4, 4), **rest})
    deep = Profile("deep", {"N_res": residues, "N_clust": (5, 8, 8), **rest})
    runner = Watched(model, (shallow, deep))
    one, two = (cycles_of(records["1ajj_A"], clusters, 16, 1, 1)[0] for clusters in (3, 7))
    found = recycle(runner, [one, two]).outputs
    assert list(runner.opened) == ["shallow", "deep"]
    for name, value in recycle(TorchRunner(model), [one, two]).outputs.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=2e-3, err_msg=name)


def test_a_state_is_good_until_the_next_pass(model: AlphaFold, records: dict[str, ChainRecord]) -> None:
    runner = Watched(model)
    features: Arrays = fit(features_of(cycles_of(records["1ajj_A"], 8, 16, 1, 1)[0], model.config), runner)
    first = runner.start(features, None)
    assert crop_outputs(first.fetch(["positions"]), output_schema(model.config), 37)["positions"].shape == (37, 37, 3)
    with pytest.raises(ValueError, match=r"no output \['nonsense'\]"):
        first.fetch(["nonsense"])
    second = runner.start(features, first)
    for use in (lambda: first.fetch(["positions"]), lambda: runner.start(features, first)):
        with pytest.raises(RuntimeError, match="overtaken by a later pass"):
            use()
    assert second.fetch(["plddt"])["plddt"].dtype == np.float32


def test_a_pass_that_fails_leaves_no_state_and_the_next_one_is_right(model: AlphaFold, records: dict[str, ChainRecord]) -> None:
    runner, cycles = Watched(model), cycles_of(records["1ajj_A"], 8, 16, 1, 2)
    features = fit(features_of(cycles[0], model.config), runner)
    expected = recycle(runner, cycles).outputs
    state = runner.start(features, None)
    broken = runner.opened["40"][2]
    module, broken.module = broken.module, _Broken()
    with pytest.raises(FoldlineError, match="out of memory"):
        runner.start(features, state)
    broken.module = module
    with pytest.raises(RuntimeError, match="overtaken"):
        state.fetch(["positions"])
    for name, value in recycle(runner, cycles).outputs.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_passes_are_recorded_at_the_second_and_replayed_until_something_changes() -> None:
    recording, ways = Recording(), []
    for key in ("a", "a", "a", "b", "a", "a", "a", "a"):
        way = recording.choose(key)
        ways.append(way)
        if way == CAPTURE:
            recording.captured(key)
    assert ways == [PLAIN, CAPTURE, REPLAY, PLAIN, PLAIN, CAPTURE, REPLAY, REPLAY]
    recording.refuse()
    assert [recording.choose("a") for _ in range(3)] == [PLAIN] * 3


def test_scratch_memory_grows_and_never_shrinks() -> None:
    scratch = Scratch(torch.device("cpu"))
    large = scratch.reserve(1000)
    assert (large.numel(), scratch.reserve(10).data_ptr()) == (1000, large.data_ptr())
    assert scratch.reserve(1001).numel() == 1001


class _Broken(nn.Module):
    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        raise FoldlineError("out of memory")
