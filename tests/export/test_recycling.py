"""Recycling stops when Cα distances stand still, and counts what it did."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from foldline.cli import main
from foldline.data_store.types import ChainRecord
from foldline.export.graph import Arrays
from foldline.export.recycling import distance_change, recycle
from foldline.export.runners import ArrayState, Features, Runner, State, TorchRunner
from foldline.model.alphafold import AlphaFold
from foldline.tests.export.conformance import cycles_of
from foldline.tests.export.conftest import DEMO


class Settling:
    """A network whose structure is scaled by 1, 1 + 1/2, 1 + 1/2 + 1/4, ...: each pass moves half as much as the one before."""

    multiple = 8

    def __init__(self, inner: Runner) -> None:
        self.name, self.config, self.limits, self.inner = "settling", inner.config, inner.limits, inner
        self.given: list[State | None] = []

    def start(self, features: Features, previous: State | None) -> State:
        self.given.append(previous)
        outputs: Arrays = self.inner.start(features, None).fetch(["positions", "atom_mask", "plddt", "distogram"])
        outputs["positions"] = self.shape(len(features["aatype"])) * (2 - 0.5 ** (len(self.given) - 1))
        return ArrayState(outputs)

    @staticmethod
    def shape(n: int) -> np.ndarray:
        return np.random.default_rng(0).normal(0, 10, (n, 37, 3)).astype(np.float32)


@pytest.fixture
def settling(bare: tuple[AlphaFold, Path]) -> Settling:
    return Settling(TorchRunner(bare[0]))


def by_definition(before: np.ndarray, after: np.ndarray) -> float:
    """Root mean square over all pairs of the change in distance, written out."""
    pairs = [
        (np.linalg.norm(after[i] - after[j]) - np.linalg.norm(before[i] - before[j])) for i in range(len(after)) for j in range(len(after))
    ]
    return float(np.sqrt(np.mean(np.square(pairs))))


def test_the_change_is_that_of_distances_and_blind_to_motion_and_masks() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.normal(0, 8, (2, 12, 3))
    mask = np.ones(12)
    assert distance_change(before, after, mask) == pytest.approx(by_definition(before, after))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    assert distance_change(before, before @ rotation + 500, mask) == pytest.approx(0, abs=1e-5)
    mask[9:] = 0
    assert distance_change(before, after, mask) == pytest.approx(by_definition(before[:9], after[:9]))


@pytest.mark.parametrize("wanted", [1, 2, 3, 5])
def test_it_stops_at_the_first_pass_within_the_tolerance(settling: Settling, records: dict[str, ChainRecord], wanted: int) -> None:
    cycles = cycles_of(records["1ajj_A"], 4, 4, 0, 6)
    n = len(cycles[0].aatype)
    base = settling.shape(40)[:n, 1]
    changes = [by_definition(base * (2 - 0.5 ** (k - 1)), base * (2 - 0.5**k)) for k in range(1, 6)]  # of pass 2, 3, ...
    passes: list[int] = []
    folded = recycle(settling, cycles, tolerance=changes[wanted - 1] * 1.001, on_pass=passes.append)
    assert folded.passes == wanted + 1 == len(settling.given)
    assert passes == list(range(1, wanted + 2))
    assert folded.change == pytest.approx(changes[wanted - 1], rel=1e-4)
    assert settling.given[0] is None
    assert None not in settling.given[1:]
    assert len(folded.outputs["positions"]) == n


def test_without_a_tolerance_every_pass_is_made(settling: Settling, records: dict[str, ChainRecord]) -> None:
    cycles = cycles_of(records["1ajj_A"], 4, 4, 0, 6)
    assert recycle(settling, cycles).passes == 6
    assert recycle(settling, cycles[:1]).change is None
    with pytest.raises(ValueError, match="at least one"):
        recycle(settling, [])


@pytest.mark.parametrize(("tolerance", "passes"), [("1000", 2), ("1e-9", 4)])
def test_fold_writes_how_many_passes_it_made(exported: Path, tmp_path: Path, tolerance: str, passes: int) -> None:
    out = tmp_path / "out"
    command = [
        "fold",
        str(DEMO / "1ajj_A.a3m.gz"),
        "--bundle",
        str(exported),
        "--out",
        str(out),
        "--recycles",
        "3",
        "--tolerance",
        tolerance,
    ]
    assert main(command) == 0
    scores = json.loads((out / "1ajj_A" / "1ajj_A_scores.json").read_text())
    assert scores["passes"] == passes
    assert (scores["distance_change"] <= float(tolerance)) == (passes == 2)
    assert [name for name in scores["timings"] if name.startswith("pass")] == [f"pass {i}" for i in range(1, passes + 1)]
    assert scores["provenance"]["passes asked for"] == "4"
