"""The order of samples: a pure function of seed and position, with the configured frequencies; impossible settings told with counts."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldline.data_store.config import DataConfig, FeatureConfig
from foldline.data_store.filters import split_chains
from foldline.data_store.sampler import Cursor, SampleOrder, make_order, open_order, sampling_weights
from foldline.errors import FoldlineError

from .chain_cases import chain, distilled, table

MANY = table(*(chain(f"c{i}", length=50 * (i + 1), cluster_id=f"k{i % 4}") for i in range(13)), distilled("d0"), distilled("d1"))
PLACES = st.tuples(st.sampled_from([1, 2, 3, 4, 8]), st.integers(1, 4))  # world, micro-batch


def order(seed: int = 0) -> SampleOrder:
    return make_order(MANY, DataConfig(seed=seed), 3)


def probabilities(made: SampleOrder) -> dict[str, float]:
    return dict(zip(made.chain_ids, np.diff(made.cumulative, prepend=0.0).tolist(), strict=True))


class TestOrder:
    def test_is_a_function_of_seed_and_position(self) -> None:
        one, again, other = order(3), order(3), order(4)
        forward = [one.task(p, p // 4) for p in range(100)]
        assert forward == [again.task(p, p // 4) for p in reversed(range(100))][::-1]
        assert [t.chain_id for t in forward] != [other.chain_at(p) for p in range(100)]
        assert len({t.seed for t in forward}) == 100
        assert all(t.seed >= 0 for t in forward)

    def test_is_the_same_in_every_version(self) -> None:
        """A run that continues with a newer Foldline must see the chains that it would have seen."""
        task = make_order(table(*(chain(f"c{i}") for i in range(50))), DataConfig(seed=3), 3).task(1234, 56)
        assert task == (1234, "c44", 8451226409322952821, 4)

    @given(place=PLACES, steps=st.integers(1, 5), position=st.integers(0, 10**9), step=st.integers(0, 10**6), seed=st.integers(0, 99))
    @settings(max_examples=40)
    def test_ranks_together_take_consecutive_positions(
        self, place: tuple[int, int], steps: int, position: int, step: int, seed: int
    ) -> None:
        (world, micro_batch), made = place, order(seed)
        shares = [list(islice(made.share(Cursor(position, step), r, world, micro_batch), steps * micro_batch)) for r in range(world)]
        seen = [shares[r][s * micro_batch + i] for s in range(steps) for r in range(world) for i in range(micro_batch)]
        assert seen == [made.task(position + n, step + n // (world * micro_batch)) for n in range(len(seen))]
        for s in range(steps):  # every rank makes as many passes
            assert len({share[s * micro_batch].n_cycles for share in shares}) == 1

    def test_micro_batches_of_one_optimizer_step_make_as_many_passes(self) -> None:
        made = order()
        tasks = list(islice(made.share(Cursor(0, 0), 0, 1, 2, accumulate=3), 60))
        assert [t.n_cycles for t in tasks] == [made.n_cycles(n // 6) for n in range(60)]
        assert list(islice(made.share(Cursor(14, 7), 0, 1, 2, accumulate=3), 46)) == tasks[14:]

    @given(before=PLACES, after=PLACES, steps=st.integers(0, 4), seed=st.integers(0, 99))
    @settings(max_examples=40)
    def test_is_elastic(self, before: tuple[int, int], after: tuple[int, int], steps: int, seed: int) -> None:
        """Stopping at a cursor and going on with other ranks continues the sequence of samples where it broke off."""
        made, seen = order(seed), []
        for (world, micro_batch), cursor in ((before, Cursor()), (after, Cursor(steps * before[0] * before[1], steps))):
            count = steps if not seen and cursor == Cursor() else 3
            shares = [list(islice(made.share(cursor, r, world, micro_batch), count * micro_batch)) for r in range(world)]
            seen += [shares[r][s * micro_batch + i] for s in range(count) for r in range(world) for i in range(micro_batch)]
        one = list(islice(made.share(Cursor(), 0, 1, 1), len(seen) if steps else 0))
        assert [t[:3] for t in one] == [t[:3] for t in seen][: len(one)]  # all but the passes, which belong to the step

    def test_an_epoch_is_as_many_draws_as_there_are_chains(self) -> None:
        made = order()
        assert made.place(0) == (0, 0)
        assert made.place(3 * len(made.chain_ids) + 5) == (3, 5)

    def test_recycling_passes_are_uniform_and_the_seed_decides(self) -> None:
        drawn = Counter(order(1).n_cycles(step) for step in range(4000))
        np.testing.assert_allclose([drawn[n] / 4000 for n in (1, 2, 3, 4)], 0.25, atol=0.03)
        assert sum(drawn.values()) == sum(drawn[n] for n in (1, 2, 3, 4))
        assert {make_order(MANY, DataConfig(), 0).n_cycles(s) for s in range(20)} == {1}
        other = make_order(table(chain("other"), chain("set")), DataConfig(seed=1), 3)
        assert [order(1).n_cycles(s) for s in range(50)] == [other.n_cycles(s) for s in range(50)]


class TestFrequencies:
    def test_follow_length_cluster_and_weight(self) -> None:
        chains = table(
            chain("short", length=50),
            chain("middle", length=384),
            chain("long", length=2000),
            chain("rare", length=512, weight=0.25),
            *(chain(f"twin{i}", length=512, cluster_id="twins") for i in range(2)),
        )
        expected = np.array([0.5, 0.75, 1.0, 0.25, 0.5, 0.5]) / 3.5
        np.testing.assert_allclose(list(probabilities(make_order(chains, DataConfig(), 3)).values()), expected, rtol=1e-12)

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_draws_agree_with_the_weights(self, seed: int) -> None:
        """Pearson's chi-square stays below its 99.9 % quantile for 14 degrees of freedom."""
        made, draws = order(seed), 20_000
        drawn = Counter(made.chain_at(p) for p in range(draws))
        expected = {name: p * draws for name, p in probabilities(made).items()}
        assert len(expected) == 15
        assert sum((drawn[name] - e) ** 2 / e for name, e in expected.items()) < 36.12

    def test_clusters_are_counted_over_what_is_trained_on(self) -> None:
        chains = table(
            chain("a", cluster_id="k"),
            chain("b", cluster_id="k"),
            chain("blurred", cluster_id="k", resolution=20.0),
            chain("held", cluster_id="k"),
            chain("alone", cluster_id="other"),
        )
        drawn = probabilities(make_order(chains, DataConfig(validation=("held",)), 3))
        assert drawn == pytest.approx({"a": 0.25, "b": 0.25, "alone": 0.5})

    @given(
        lengths=st.lists(st.tuples(st.integers(1, 3000), st.booleans(), st.sampled_from(["", "k", "m"])), min_size=2, max_size=20),
        fraction=st.floats(0.01, 0.99),
    )
    def test_the_mix_is_exact_whatever_the_weights(self, lengths: list[tuple[int, bool, str]], fraction: float) -> None:
        rows = [(distilled if d else chain)(f"c{i}", length=n, cluster_id=k) for i, (n, d, k) in enumerate(lengths)]
        chains, data = table(chain("real"), distilled("predicted"), *rows), DataConfig(distillation_fraction=fraction)
        weights = sampling_weights(chains, split_chains(chains, data), data)
        assert weights[chains.is_distilled].sum() == pytest.approx(fraction, abs=1e-12)
        assert weights.sum() == pytest.approx(1.0, abs=1e-12)

    def test_a_mix_that_is_not_given_is_af2s_where_there_are_both_kinds(self) -> None:
        both = table(chain("real"), distilled("d1"), distilled("d2"))
        assert probabilities(make_order(both, DataConfig(), 3)) == pytest.approx({"real": 0.25, "d1": 0.375, "d2": 0.375})
        assert set(probabilities(make_order(table(chain("real")), DataConfig(), 3))) == {"real"}
        assert set(probabilities(make_order(table(distilled("d")), DataConfig(), 3))) == {"d"}

    def test_a_kind_that_gets_nothing_is_not_in_the_order(self) -> None:
        both = table(chain("real"), distilled("d1"))
        assert make_order(both, DataConfig(distillation_fraction=0.0), 3).chain_ids == ("real",)
        assert make_order(both, DataConfig(distillation_fraction=1.0), 3).chain_ids == ("d1",)


class TestImpossible:
    def test_an_empty_set_names_the_counts_by_reason(self) -> None:
        chains = [chain("a", resolution=20.0), chain("b", resolution=12.0), chain("c", weight=0.0), chain("v")]
        with pytest.raises(FoldlineError, match=r"none of 4 chains.*1 x held out.*2 x resolution above.*1 x weight not above 0"):
            make_order(table(*chains), DataConfig(validation=("v",)), 3)
        with pytest.raises(FoldlineError, match=r"none of 0 chains.*the list is empty"):
            make_order(table(), DataConfig(), 3)
        assert make_order(table(*chains, chain("d")), DataConfig(validation=("v",)), 3).chain_ids == ("d",)

    @pytest.mark.parametrize(
        ("chains", "fraction", "message"),
        [
            ([chain("a")], 0.75, r"gives 75% of the samples to distillation entries, but none.*the list is empty.*set it to 0"),
            ([chain("a")], 1.0, r"gives 100% of the samples to distillation entries.*set it to 0"),
            ([distilled("a")], 0.75, r"gives 25% of the samples to experimental entries.*set it to 1"),
            ([chain("a"), distilled("d", length=9)], 0.5, r"distillation entries.*1 x shorter than data.min_length = 10"),
        ],
    )
    def test_a_kind_that_must_be_mixed_in_must_be_there(self, chains: list[dict[str, object]], fraction: float, message: str) -> None:
        with pytest.raises(FoldlineError, match=message):
            make_order(table(*chains), DataConfig(distillation_fraction=fraction, min_length=10), 3)

    def test_the_store_is_named(self, demo_store: Path) -> None:
        with pytest.raises(FoldlineError, match=rf"{demo_store}: none of 8 chains.*8 x longer than data.max_length = 5"):
            open_order(demo_store, DataConfig(max_length=5), FeatureConfig())
