"""The order of samples: a pure function of seed and position, with the configured frequencies; what is filtered and how that is told."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foldline.data_store.config import DataConfig
from foldline.data_store.filters import Candidate, largest_shares, reason_to_drop, training_chains
from foldline.data_store.sampler import make_order
from foldline.data_store.store import Store
from foldline.data_store.types import ChainMetadata
from foldline.errors import FoldlineError


def chain(name: str, length: int = 100, **metadata: float | str) -> Candidate:
    return Candidate(ChainMetadata(name, **metadata), length, 0.1)


def test_order_is_a_function_of_seed_and_position() -> None:
    chains = [chain(f"c{i}") for i in range(50)]
    one, again = (make_order(chains, DataConfig(seed=3), 3) for _ in range(2))
    other = make_order(chains, DataConfig(seed=4), 3)
    forward = [one.task(p, p // 4) for p in range(100)]
    assert forward == [again.task(p, p // 4) for p in reversed(range(100))][::-1]
    assert [t.chain_id for t in forward] != [other.chain_at(p) for p in range(100)]
    assert len({t.seed for t in forward}) == 100
    assert all(t.seed >= 0 for t in forward)


@pytest.mark.parametrize(("world", "micro_batch"), [(1, 8), (2, 4), (8, 1), (4, 2)])
def test_ranks_share_a_step_without_overlap(world: int, micro_batch: int) -> None:
    order = make_order([chain(f"c{i}") for i in range(9)], DataConfig(), 3)
    step = 5
    tasks = [order.task((step * world + rank) * micro_batch + i, step) for rank in range(world) for i in range(micro_batch)]
    assert [t.position for t in tasks] == list(range(40, 48))
    assert [t.chain_id for t in tasks] == [order.chain_at(p) for p in range(40, 48)]
    assert len({t.n_cycles for t in tasks}) == 1


def test_chains_come_up_by_weight_and_length() -> None:
    chains = [chain("short", 50), chain("middle", 384), chain("long", 2000), chain("crowded", 512, weight=0.25)]
    order = make_order(chains, DataConfig(), 3)
    drawn = Counter(order.chain_at(p) for p in range(20_000))
    expected = np.array([0.5, 0.75, 1.0, 0.25]) / 2.5
    np.testing.assert_allclose([drawn[c.metadata.chain_id] / 20_000 for c in chains], expected, atol=0.012)


def test_distillation_gets_its_share_whatever_the_weights() -> None:
    chains = [chain("real"), chain("d1", weight=50.0, source="distillation"), chain("d2", weight=50.0, source="distillation")]
    order = make_order(chains, DataConfig(distillation_fraction=0.75), 3)
    drawn = Counter(order.chain_at(p) for p in range(8000))
    np.testing.assert_allclose([drawn[n] / 8000 for n in ("real", "d1", "d2")], [0.25, 0.375, 0.375], atol=0.02)
    assert make_order(chains[1:], DataConfig(distillation_fraction=0.0), 3).chain_at(0).startswith("d")


def test_recycling_passes_are_uniform_and_the_seed_decides() -> None:
    order = make_order([chain("a")], DataConfig(seed=1), 3)
    drawn = Counter(order.n_cycles(step) for step in range(4000))
    np.testing.assert_allclose([drawn[n] / 4000 for n in (1, 2, 3, 4)], 0.25, atol=0.03)
    assert sum(drawn.values()) == sum(drawn[n] for n in (1, 2, 3, 4))
    assert {make_order([chain("a")], DataConfig(), 0).n_cycles(s) for s in range(20)} == {1}
    other = make_order([chain("other"), chain("set")], DataConfig(seed=1), 3)
    assert [order.n_cycles(s) for s in range(50)] == [other.n_cycles(s) for s in range(50)]


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (chain("a", resolution=9.0), ""),
        (chain("unknown resolution", resolution=0.0), ""),
        (chain("blurred", resolution=9.01), "resolution above data.max_resolution = 9.0"),
        (Candidate(ChainMetadata("a"), 100, 0.80), ""),
        (Candidate(ChainMetadata("a"), 100, 0.81), "one residue type"),
        (chain("a", weight=0.0), "weight not above 0"),
        (chain("a", weight=float("nan")), "weight not above 0"),
    ],
)
def test_filters(candidate: Candidate, reason: str) -> None:
    told = reason_to_drop(candidate, DataConfig())
    assert told.startswith(reason)
    assert bool(told) == bool(reason)


def test_largest_share_is_that_of_the_most_frequent_letter(demo_store: Path) -> None:
    store = Store.open(demo_store)
    sequences = [store.record(name).sequence for name in store.chain_ids]
    assert largest_shares(store) == pytest.approx([max(Counter(s).values()) / len(s) for s in sequences])


def test_an_empty_set_names_the_counts_by_reason() -> None:
    chains = [chain("a", resolution=20.0), chain("b", resolution=12.0), chain("c", weight=0.0)]
    with pytest.raises(FoldlineError, match=r"none of 3 chains.*2 x resolution above.*1 x weight not above 0"):
        make_order(chains, DataConfig(), 3)
    with pytest.raises(FoldlineError, match=r"none of 0 chains.*the list is empty"):
        make_order([], DataConfig(), 3)
    order = make_order([*chains, chain("d")], DataConfig(), 3)
    assert {order.chain_at(p) for p in range(50)} == {"d"}


def test_lists_choose_chains_and_unknown_ids_are_refused() -> None:
    ids = ("1ubq_A", "1ctf_A", "1tig_A")
    data = DataConfig(validation=("1ctf_A",))
    assert training_chains(ids, data) == ("1ubq_A", "1tig_A")
    assert training_chains(ids, replace(data, train=("1tig_A",))) == ("1tig_A",)
    with pytest.raises(FoldlineError, match=r"data.train: the store has no chain '1ubq_B'; did you mean '1ubq_A'\?"):
        training_chains(ids, DataConfig(train=("1ctf_A", "1ubq_B")))
    with pytest.raises(FoldlineError, match=r"data.validation: the store has no chain '1ctf_C' and 1 more"):
        training_chains(ids, DataConfig(validation=("1ctf_C", "9xyz_A")))
