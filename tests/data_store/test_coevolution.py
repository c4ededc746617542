"""Conservation and co-evolution: planted couplings are found, repeats change nothing, real contacts stand out from chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldline.data_store.residues import ATOM_INDEX, GAP, RESTYPE_INDEX
from foldline.data_store.show.alignment import MOST_ROWS, Alignment, read_alignment, row_limit, sequence_weights
from foldline.data_store.show.coevolution import average_product_correction, coevolution, coupling_norms, coupling_row_limit
from foldline.data_store.show.conservation import BACKGROUND, conservation, coverage
from foldline.data_store.show.contacts import contact_rate, distance_map, precision, top_pairs
from foldline.data_store.show.secondary import secondary_structure
from foldline.data_store.types import ChainRecord, Msa
from foldline.tests.data_store.show_cases import PLANTED, chain, planted_rows, uneven_rows


def alignment(rows: np.ndarray) -> Alignment:
    return Alignment(rows, sequence_weights(rows), len(rows))


def strongest(scores: np.ndarray, count: int) -> set[tuple[int, int]]:
    return {(pair.i, pair.j) for pair in top_pairs(scores, np.full_like(scores, np.nan), count)}


def slow_weights(rows: np.ndarray) -> np.ndarray:
    known = rows < 20
    same = (rows[:, None] == rows) & known[:, None] & known
    return 1 / (same.sum(2) >= 0.8 * known.sum(1)[:, None]).sum(1)


def correlation(rows: np.ndarray, i: int, j: int) -> float:
    """Frobenius norm of the covariance of two columns over the twenty residues."""
    a, b = (np.eye(22)[rows[:, column]] for column in (i, j))
    return float(np.linalg.norm((a - a.mean(0)).T @ (b - b.mean(0)) / len(rows)))


class TestWeights:
    @settings(max_examples=25)
    @given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([1, 9, 63, 64, 65, 130]))
    def test_equal_to_counting_one_by_one(self, seed: int, depth: int, length: int) -> None:
        rng = np.random.default_rng(seed)
        family = rng.integers(0, 22, (3, length))
        rows = np.where(rng.random((depth, length)) < 0.85, family[rng.integers(0, 3, depth)], rng.integers(0, 22, (depth, length)))
        rows = rows.astype(np.uint8)
        np.testing.assert_allclose(sequence_weights(rows), slow_weights(rows))

    def test_a_fragment_gives_way_to_its_full_sequence(self) -> None:
        rng = np.random.default_rng(0)
        full = rng.integers(0, 20, 100).astype(np.uint8)
        fragment = full.copy()
        fragment[30:] = GAP
        np.testing.assert_allclose(sequence_weights(np.stack([full, fragment])), [1.0, 0.5])

    def test_repeats_leave_n_eff_and_couplings_as_they_are(self) -> None:
        rows = planted_rows(1, depth=80)
        once, thrice = alignment(rows), alignment(np.concatenate([rows, rows[::2], rows[::2]]))
        assert thrice.n_eff == pytest.approx(once.n_eff)
        np.testing.assert_allclose(conservation(thrice.rows, thrice.weights), conservation(once.rows, once.weights), atol=1e-12)
        np.testing.assert_allclose(coevolution(thrice)[0], coevolution(once)[0], atol=2e-4)

    def test_many_rows_are_thinned_evenly_and_the_query_stays(self) -> None:
        rows = np.random.default_rng(0).integers(0, 20, (MOST_ROWS + 700, 8)).astype(np.uint8)
        read = read_alignment([Msa("deep", rows, np.zeros_like(rows))])
        assert len(read.rows) == row_limit(8) == MOST_ROWS
        assert (read.rows[0] == rows[0]).all()
        assert read.total == len(np.unique(rows, axis=0)) > MOST_ROWS
        assert row_limit(2_000) < MOST_ROWS


class TestCouplings:
    @pytest.mark.parametrize("seed", range(3))
    def test_planted_pairs_are_the_strongest(self, seed: int) -> None:
        scores, used = coevolution(alignment(planted_rows(seed)))
        assert used == 600
        assert strongest(scores, 3) == set(PLANTED)

    def test_indirect_links_are_weaker_than_direct_ones(self) -> None:
        """10 follows 2 and 20 follows 10: correlation cannot tell (2, 20) from a contact, the inverse can."""
        rng = np.random.default_rng(0)
        rows = rng.integers(0, 20, (4000, 24)).astype(np.uint8)
        for i, j in ((2, 10), (10, 20)):
            follows = rng.random(len(rows)) < 0.75
            rows[follows, j] = rows[follows, i]
        norms = coupling_norms(rows, np.ones(len(rows)))
        assert correlation(rows, 2, 20) > 0.7 * correlation(rows, 2, 10)
        assert norms[2, 20] < 0.6 * min(norms[2, 10], norms[10, 20])

    @pytest.mark.parametrize("seed", range(3))
    def test_the_correction_removes_what_variability_adds(self, seed: int) -> None:
        family = alignment(uneven_rows(seed))
        raw = coupling_norms(family.rows, family.weights)
        assert len(strongest(raw, 20) & set(PLANTED)) <= 1
        assert strongest(average_product_correction(raw), 3) == set(PLANTED)

    def test_the_correction_of_a_pure_product_leaves_almost_nothing(self) -> None:
        level = np.random.default_rng(0).uniform(0.5, 2.0, 200)
        product = np.outer(level, level)
        corrected = average_product_correction(product)
        assert np.abs(corrected).max() < 0.05 * product.max()
        product[3, 90] = product[90, 3] = product[3, 90] + 1.0
        assert strongest(average_product_correction(product), 1) == {(3, 90)}

    def test_both_ways_to_the_inverse_agree(self) -> None:
        """Few rows take one way, the same rows three times over with a third of the weight each the other."""
        rows = planted_rows(3, depth=70, length=30)[:, [2, 20, 5, 14, 8, 27]]
        weights = sequence_weights(rows)
        assert len(rows) < 6 * 21 < 3 * len(rows)
        few, many = coupling_norms(rows, weights), coupling_norms(np.tile(rows, (3, 1)), np.tile(weights / 3, 3))
        off = ~np.eye(6, dtype=bool)
        np.testing.assert_allclose(few[off], many[off], rtol=2e-3)

    def test_symmetric_finite_and_without_diagonal(self) -> None:
        rows = planted_rows(0, depth=50)
        rows[1:, 4] = GAP
        scores, _ = coevolution(alignment(rows))
        assert np.isfinite(scores).all()
        assert (scores == scores.T).all()
        assert (np.diag(scores) == 0).all()

    def test_a_query_alone_has_none(self) -> None:
        scores, used = coevolution(alignment(planted_rows(0)[:1]))
        assert used == 1
        assert not scores.any()

    def test_rows_of_long_chains_are_bounded(self) -> None:
        assert coupling_row_limit(350) >= MOST_ROWS
        assert coupling_row_limit(1_500) * (21 * 1_500) ** 2 < 1e12
        rows = chain(1_200, 1_200).msas[0].rows
        assert coupling_row_limit(1_200) < len(rows)


class TestColumns:
    def test_conservation_orders_columns_as_biochemists_do(self) -> None:
        rng = np.random.default_rng(0)
        rows = rng.integers(0, 20, (400, 6)).astype(np.uint8)
        rows[:, 0], rows[:, 1] = RESTYPE_INDEX["W"], RESTYPE_INDEX["L"]
        rows[:, 2] = np.where(rng.random(400) < 0.5, RESTYPE_INDEX["I"], RESTYPE_INDEX["V"])
        rows[200:, 3] = GAP
        rows[:, 3] = np.where(rows[:, 3] == GAP, GAP, RESTYPE_INDEX["L"])
        rows[:, 4] = GAP
        score = conservation(rows, np.ones(400))
        assert score[0] > score[1] > score[2] > score[5]
        assert score[3] == pytest.approx(score[1] / 2)
        assert score[4] == 0
        assert ((score >= 0) & (score <= 1)).all()

    def test_a_column_like_the_background_is_not_conserved(self) -> None:
        every = np.arange(20, dtype=np.uint8)[:, None]
        assert conservation(every, BACKGROUND)[0] == pytest.approx(0, abs=1e-12)
        assert conservation(every, np.ones(20))[0] > 0.01

    def test_coverage_counts_homologs(self) -> None:
        rows = np.array([[1, 2, 3], [1, GAP, 20], [GAP, GAP, 3]], np.uint8)
        np.testing.assert_allclose(coverage(rows), [0.5, 0.0, 1.0])
        assert not coverage(rows[:1]).any()


class TestRealChains:
    def test_couplings_find_contacts_far_above_chance(self, records: list[ChainRecord]) -> None:
        """The bundled chains with over a hundred effective sequences."""
        reached = []
        for record in records:
            family = read_alignment(record.msas)
            if family.n_eff < 100:
                continue
            distances, scores = distance_map(record), coevolution(family)[0]
            reached.append(precision(scores, distances, len(record.sequence) // 5))
            assert reached[-1] > 4 * contact_rate(distances)
        assert len(reached) >= 3
        assert np.mean(reached) > 0.5

    def test_distances_are_between_beta_carbons(self, records: list[ChainRecord]) -> None:
        (record,) = [r for r in records if r.metadata.chain_id == "1ubq_A"]
        record.mask[20, ATOM_INDEX["CB"]] = 0
        distances = distance_map(record)
        record.mask[20, ATOM_INDEX["CB"]] = 1
        atoms = ["CA" if letter == "G" else "CB" for letter in record.sequence]
        for i, j in ((0, 16), (9, 46), (3, 64)):
            a, b = (record.positions[place, ATOM_INDEX[atoms[place]]] for place in (i, j))
            assert distances[i, j] == pytest.approx(np.linalg.norm(a - b), rel=1e-5)
        assert "G" in (record.sequence[9], record.sequence[46])
        assert np.isnan(distances[20]).all()
        assert np.isnan(distances).sum() == 2 * len(distances) - 1

    def test_secondary_structure_of_ubiquitin(self, records: list[ChainRecord]) -> None:
        """The α-helix of 23-34 and the five strands of the sheet (Vijay-Kumar et al. 1987)."""
        (record,) = [r for r in records if r.metadata.chain_id == "1ubq_A"]
        letters = secondary_structure(record)
        assert [place + 1 for place, letter in enumerate(letters) if letter == "H"] == list(range(23, 35))
        for first, last in ((2, 6), (12, 16), (41, 45), (48, 49), (66, 71)):
            assert set(letters[first - 1 : last]) == {"E"}
        assert set(letters[17:22]) == {"-"}
