"""The bench: who takes turns with whom, ratios within a round, memory of a process that really held it. The clock is moved by hand."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping
from functools import partial

import numpy as np
import pytest

from foldline.data_store.config import FeatureConfig
from foldline.data_store.types import ChainRecord
from foldline.errors import FoldlineError
from foldline.export import bench
from foldline.export.bench import BenchReport, run_bench
from foldline.export.bench_memory import measure_peak
from foldline.export.config import BenchConfig
from foldline.export.gate_proteins import GateProtein, Selection
from foldline.export.runners import ArrayState, Runner, State, TorchRunner
from foldline.tests.export import cases, gate_cases

FEATURES = FeatureConfig(max_msa_clusters=4, max_extra_msa=4, max_templates=0)
QUIET = BenchConfig(repeats=3, memory=False)
HELD = 400_000_000  # bytes


class Clock:
    """Stands still but for what ``work`` adds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def work(self, name: str, seconds: float) -> None:
        self.log.append(name)
        self.now += seconds


class Timed:
    """Takes a given time for each pass, and longer as the machine slows down."""

    def __init__(self, inner: Runner, clock: Clock, name: str, seconds: float) -> None:
        self.name, self.config, self.limits, self.multiple = name, inner.config, inner.limits, inner.multiple
        self.inner, self.clock, self.seconds = inner, clock, seconds

    def start(self, features: Mapping[str, np.ndarray], previous: State | None) -> State:
        self.clock.work(self.name, self.seconds * (1 + len(self.clock.log) // 6))
        return self.inner.start(features, previous)


class Hungry:
    """Holds and touches memory during a pass."""

    def __init__(self, inner: Runner, size: int) -> None:
        self.name, self.config, self.limits, self.multiple = "hungry", inner.config, inner.limits, inner.multiple
        self.inner, self.size = inner, size

    def start(self, features: Mapping[str, np.ndarray], previous: State | None) -> State:
        held = np.ones(self.size, np.uint8)
        state = self.inner.start(features, previous)
        assert held[-1] == 1
        return state


def torch_runner() -> Runner:
    return TorchRunner(cases.model_of(cases.bare()))


def hungry_runner(size: int) -> Runner:
    return Hungry(torch_runner(), size)


def dying_runner() -> Runner:
    os._exit(7)


def failing_runner() -> Runner:
    raise FoldlineError("no such engine")


@pytest.fixture
def one(records: dict[str, ChainRecord]) -> Selection:
    return Selection((GateProtein(records["1ajj_A"], "given"),), ())


def test_contenders_take_turns_and_each_round_begins_with_another(one: Selection, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, inner = Clock(), torch_runner()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    given = {name: partial(Timed, inner, clock, name, seconds) for name, seconds in (("a", 3.0), ("b", 1.0), ("c", 2.0))}
    report = run_bench(given, one, FEATURES, 2, QUIET)
    warm, rounds = clock.log[:6], clock.log[6:]
    assert warm == list("aabbcc")  # two passes a fold
    assert rounds == list("aabbcc" + "bbccaa" + "ccaabb")
    cells = {cell.contender: cell for cell in report.cells}
    assert cells["a"].first_seconds == 6.0
    # The machine became slower from round to round, and the ratios, taken within a round, do not see it.
    assert cells["b"].seconds == (4.0, 6.0, 8.0)
    assert cells["b"].ratios == (3.0, 3.0, 3.0)
    assert (cells["c"].ratio, cells["c"].median) == (1.5, 12.0)
    assert report.ratios("b") == [3.0]
    assert report.to_dict()["cells"][1]["ratio"] == 3.0


def test_every_row_says_how_far_its_fold_is_from_the_first(one: Selection) -> None:
    def scattered() -> Runner:
        return gate_cases.Broken(torch_runner(), gate_cases.scatter)

    report = run_bench({"PyTorch": torch_runner, "same": torch_runner, "off": scattered}, one, FEATURES, 1, QUIET)
    base, same, off = report.cells
    assert (base.rmsd, base.lddt, same.rmsd, same.lddt) == (0.0, 0.0, 0.0, 0.0)
    assert off.rmsd == pytest.approx(0.04 * 3**0.5, rel=1e-4)


def test_memory_is_what_a_process_held_at_its_peak(one: Selection) -> None:
    given = {"PyTorch": torch_runner, "hungry": partial(hungry_runner, HELD)}
    report = run_bench(given, one, FEATURES, 1, BenchConfig(repeats=1))
    plain, hungry = (cell.peak for cell in report.cells)
    assert plain is not None
    assert hungry is not None
    assert plain.method == hungry.method == "resident"
    assert plain.bytes < HELD / 2
    assert HELD <= hungry.bytes < 1.5 * HELD


@pytest.mark.parametrize(("make", "words"), [(dying_runner, r"code 7.*out of memory"), (failing_runner, "no such engine")])
def test_a_process_that_dies_is_an_error(one: Selection, make: bench.Factory, words: str) -> None:
    with pytest.raises(FoldlineError, match=rf"memory of 1ajj_A ended .*{words}"):
        bench._peak(make, one.proteins[0].record, FEATURES, "cpu")
    assert not [child for child in multiprocessing.active_children() if child.name.startswith("SpawnProcess")]


def test_the_measured_pass_is_not_the_first(records: dict[str, ChainRecord]) -> None:
    """What is compiled or cached in the first pass is no part of the peak of later ones."""
    ours, theirs = multiprocessing.Pipe(duplex=False)

    class FirstHungry:
        def __init__(self, inner: Runner) -> None:
            self.name, self.config, self.limits, self.multiple = "first", inner.config, inner.limits, inner.multiple
            self.inner, self.size = inner, HELD

        def start(self, features: Mapping[str, np.ndarray], previous: State | None) -> State:
            np.ones(self.size, np.uint8)
            self.size = 1
            return ArrayState(self.inner.start(features, previous).fetch(["positions", "plddt", "atom_mask", "distogram"]))

    measure_peak(theirs, lambda: FirstHungry(torch_runner()), records["1ajj_A"], FEATURES, "cpu")
    assert ours.recv().bytes < HELD / 2


def test_no_rounds_are_refused(one: Selection) -> None:
    with pytest.raises(FoldlineError, match=r"export\.bench\.repeats = 0 measures nothing"):
        run_bench({"PyTorch": torch_runner}, one, FEATURES, 1, BenchConfig(repeats=0))


def test_the_report_goes_into_json(one: Selection) -> None:
    import json

    report = run_bench({"PyTorch": torch_runner}, one, FEATURES, 1, BenchConfig(repeats=1, memory=False), left_out=["x: no compiler"])
    assert isinstance(report, BenchReport)
    assert json.loads(json.dumps(report.to_dict()))["left_out"] == ["x: no compiler"]
