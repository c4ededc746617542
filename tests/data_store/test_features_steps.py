"""Each feature step alone: against a plain rewrite in loops or one-hot products, on a real alignment, and by its laws."""

from __future__ import annotations

import numpy as np
import pytest

from foldline.data_store.compact import fill_fields
from foldline.data_store.features import clusters as clusters_module
from foldline.data_store.features.clusters import cluster_means, count_clusters, nearest_clusters, pack_rows
from foldline.data_store.features.crop import crop_window
from foldline.data_store.features.masking import MASK_TOKEN, mask_msa
from foldline.data_store.features.msa import (
    cells_with_deletions,
    keep_after_block_deletion,
    keep_at_random,
    merge_msas,
    residue_profile,
    split_rows,
    take_rows,
    unique_rows,
)
from foldline.data_store.features.msa_feat import PROFILE, deletion_value, fill_deletions, fill_msa_feat, make_target_feat
from foldline.data_store.features.targets import make_targets
from foldline.data_store.features.templates import choose_templates, template_features
from foldline.data_store.residues import GAP
from foldline.data_store.types import ChainRecord, Msa, Targets


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_unique_rows_keep_the_first_across_alignments_and_their_names(deep: ChainRecord) -> None:
    msa = deep.msas[0]
    cut = len(msa.rows) // 2
    first, second = Msa("first", msa.rows[:cut], msa.deletions[:cut]), Msa("second", msa.rows[cut - 3 :], msa.deletions[cut - 3 :] + 1)
    unique = unique_rows([first, second, Msa("again", first.rows, first.deletions)])
    assert [m.name for m in unique] == ["first", "second"]
    together = [row.tobytes() for m in unique for row in m.rows]
    assert together == list(dict.fromkeys(row.tobytes() for row in msa.rows))
    deletions = {row.tobytes(): d for row, d in zip(first.rows[::-1], first.deletions[::-1], strict=True)}
    assert all(np.array_equal(d, deletions[row.tobytes()]) for row, d in zip(unique[0].rows, unique[0].deletions, strict=True))
    assert all(a is b for a, b in zip(unique_rows(unique), unique, strict=True))


def test_rows_are_taken_across_alignments(deep: ChainRecord, rng: np.random.Generator) -> None:
    rows, deletions = deep.msas[0].rows, rng.integers(0, 256, deep.msas[0].rows.shape).astype(np.uint8)
    cuts = [slice(0, 30), slice(30, 40), slice(40, len(rows))]
    msas = [Msa(f"part {i}", rows[cut], deletions[cut]) for i, cut in enumerate(cuts)]
    everything = merge_msas(msas)
    np.testing.assert_array_equal(everything[0], rows)
    np.testing.assert_array_equal(everything[1], deletions)
    keep = np.array([0, 3, 29, 40, 55, len(rows) - 1])
    taken = take_rows(msas, keep)
    assert [m.name for m in taken] == ["part 0", "part 2"]
    np.testing.assert_array_equal(merge_msas(taken)[0], rows[keep])
    np.testing.assert_array_equal(merge_msas(taken)[1], deletions[keep])


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (40, 24), (7, 33)])
def test_cells_with_deletions_are_found_whatever_the_size(shape: tuple[int, int], rng: np.random.Generator) -> None:
    for share in (0.0, 0.1, 1.0):
        deletions = ((rng.random(shape) < share) * rng.integers(1, 256, shape)).astype(np.uint8)
        cells = cells_with_deletions(deletions)
        np.testing.assert_array_equal(np.sort(cells), np.flatnonzero(deletions))
        assert len(np.unique(cells)) == len(cells)


@pytest.mark.parametrize("depth", [1, 2, 10, 1000])
def test_block_deletion_takes_whole_blocks_and_never_the_query(depth: int, rng: np.random.Generator) -> None:
    size = int(depth * 0.3)
    survivors = []
    for _ in range(50):
        keep = keep_after_block_deletion(depth, 0.3, 2, rng)
        gone = np.setdiff1d(np.arange(depth), keep)
        assert keep[0] == 0
        assert len(gone) <= 2 * size
        assert np.count_nonzero(np.diff(gone) > 1) <= 2  # at most two blocks, or one of them cut by the query
        survivors.append(len(keep))
    assert depth < 10 or min(survivors) < depth
    assert len(keep_after_block_deletion(depth, 0.3, 0, rng)) == depth


def test_random_subset_is_sorted_and_holds_the_query(rng: np.random.Generator) -> None:
    kept = keep_at_random(500, 100, rng)
    assert kept[0] == 0
    assert len(np.unique(kept)) == 100
    assert (np.diff(kept) > 0).all()
    np.testing.assert_array_equal(keep_at_random(50, 100, rng), np.arange(50))


def test_split_is_a_partition_and_every_row_is_equally_often_a_centre(rng: np.random.Generator) -> None:
    counts = np.zeros(20)
    for _ in range(2000):
        centres, others = split_rows(20, 5, rng)
        assert centres[0] == 0
        assert sorted([*centres, *others]) == list(range(20))
        counts[centres] += 1
    assert np.abs(counts[1:] / 2000 - 4 / 19).max() < 0.04
    centres, others = split_rows(3, 5, rng)
    assert (len(centres), len(others)) == (3, 0)


def test_profile_is_the_mean_of_one_hot_rows(deep: ChainRecord) -> None:
    rows = deep.msas[0].rows
    profile = residue_profile(rows)
    np.testing.assert_allclose(profile, np.eye(22)[rows].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(profile.sum(axis=1), 1.0, atol=1e-5)


PARTS = {"uniform": 0.1, "from_profile": 0.1, "same": 0.1}


class TestMasking:
    def test_unchosen_cells_stay_and_the_shares_are_the_configured_ones(self, rng: np.random.Generator) -> None:
        rows = np.full((400, 500), GAP, np.uint8)
        profile = np.zeros((500, 22), np.float32)
        profile[:, 20] = 1.0  # nothing else makes an X
        masked, bert_mask = mask_msa(rows, profile, 0.15, **PARTS, rng=rng)
        np.testing.assert_array_equal(masked[bert_mask == 0], GAP)
        chosen = masked[bert_mask == 1]
        assert abs(bert_mask.mean() - 0.15) < 0.005
        shares = [(chosen == MASK_TOKEN).mean(), (chosen == GAP).mean(), (chosen == 20).mean(), (chosen < 20).mean()]
        np.testing.assert_allclose(shares, [0.7, 0.1, 0.1, 0.1], atol=0.01)
        amino_acids = np.bincount(chosen[chosen < 20], minlength=20) / (chosen < 20).sum()
        np.testing.assert_allclose(amino_acids, 0.05, atol=0.015)

    def test_profile_draws_follow_their_column(self, deep: ChainRecord, rng: np.random.Generator) -> None:
        profile = residue_profile(deep.msas[0].rows)[:5]
        masked, _ = mask_msa(np.zeros((20_000, 5), np.uint8), profile, 1.0, 0.0, 1.0, 0.0, rng)
        np.testing.assert_allclose(residue_profile(masked), profile, atol=0.015)

    def test_same_keeps_residues_but_asks_for_them(self, deep: ChainRecord, rng: np.random.Generator) -> None:
        rows = deep.msas[0].rows[:10]
        masked, bert_mask = mask_msa(rows, residue_profile(rows), 1.0, 0.0, 0.0, 1.0, rng)
        np.testing.assert_array_equal(masked, rows)
        assert (bert_mask == 1).all()

    def test_no_masking_at_fraction_zero(self, deep: ChainRecord, rng: np.random.Generator) -> None:
        rows = deep.msas[0].rows[:10]
        masked, bert_mask = mask_msa(rows, residue_profile(rows), 0.0, **PARTS, rng=rng)
        np.testing.assert_array_equal(masked, rows)
        assert not bert_mask.any()


class TestClusters:
    def masked_split(self, record: ChainRecord, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        rows, deletions = record.msas[0].rows, record.msas[0].deletions
        chosen, others = split_rows(len(rows), 40, rng)
        centres, _ = mask_msa(rows[chosen], residue_profile(rows), 0.15, 0.1, 0.1, 0.1, rng)
        return centres, deletions[chosen], rows[others], deletions[others]

    @pytest.mark.parametrize("block", [7, 64_000])
    def test_nearest_is_the_product_of_one_hot_matrices(
        self, deep: ChainRecord, rng: np.random.Generator, block: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(clusters_module, "_BLOCK_WORDS", block)
        centres, _, rows, _ = self.masked_split(deep, rng)
        one_hot = np.eye(23)[:, :21]  # gap and mask token agree with nothing
        agreement = np.einsum("elc,klc->ek", one_hot[rows], one_hot[centres])
        assert (centres == MASK_TOKEN).any()
        assert (rows == GAP).any()
        np.testing.assert_array_equal(nearest_clusters(pack_rows(rows), centres), agreement.argmax(axis=1))

    def test_of_equal_centres_the_first_wins_and_gaps_agree_with_nothing(self) -> None:
        centres = np.array([[GAP, 3, 5], [0, 3, 5], [GAP, GAP, 6]], np.uint8)
        rows = np.array([[GAP, 3, 5], [0, 3, 4], [GAP, GAP, GAP], [GAP, GAP, 6]], np.uint8)
        np.testing.assert_array_equal(nearest_clusters(pack_rows(rows), centres), [0, 1, 0, 2])

    @pytest.mark.parametrize(("cells", "clusters", "spread"), [(65_536, 64, True), (500, 64, True), (65_536, 3, True), (65_536, 64, False)])
    def test_summary_counts_the_centre_and_its_members(
        self, deep: ChainRecord, rng: np.random.Generator, cells: int, clusters: int, spread: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(clusters_module, "_COUNT_CELLS", cells)
        monkeypatch.setattr(clusters_module, "_COUNT_CLUSTERS", clusters)
        centres, centre_deletions, rows, deletions = self.masked_split(deep, rng)
        deletions[::3, ::5] = 200  # sums beyond a byte
        nearest = rng.integers(0, len(centres) - 1, len(rows))  # the last cluster is its centre alone
        if not spread:  # more rows in one cluster than a byte counts
            nearest[20:] = 5
        counts = count_clusters(centres, centre_deletions, rows, deletions, nearest)
        assert counts.residues.dtype == (np.uint8 if spread else np.uint16)
        assert counts.deletions.dtype == np.uint16
        profile, mean = cluster_means(counts)
        for index in range(len(centres)):
            members = np.concatenate([centres[index : index + 1], rows[nearest == index]])
            theirs = np.concatenate([centre_deletions[index : index + 1], deletions[nearest == index]])
            np.testing.assert_allclose(profile[index], np.eye(23)[members].mean(axis=0), atol=2e-6)
            np.testing.assert_allclose(mean[index], theirs.mean(axis=0), rtol=2e-6, atol=1e-6)
        np.testing.assert_allclose(profile.sum(axis=-1), 1.0, atol=1e-5)


def test_msa_feat_has_its_49_channels_in_order_and_zeros_beyond() -> None:
    rows, deletions = np.array([[2, MASK_TOKEN], [0, 1]], np.uint8), np.array([[0, 3], [1, 0]], np.uint8)
    whole = np.zeros((3, 4, 49), np.float32)
    feat = whole[:2, :2]
    feat[..., PROFILE] = 0.25
    fill_msa_feat(whole, rows, deletions, np.array([[0.0, 3.0], [0.0, 0.0]], np.float32))
    np.testing.assert_array_equal(feat[..., :23], np.eye(23)[rows])
    np.testing.assert_allclose(feat[0, :, 23:25], [[0.0, 0.0], [1.0, 0.5]], atol=1e-6)
    assert feat[1, 0, 23] == 1.0
    np.testing.assert_allclose(feat[..., 25:48], 0.25)
    np.testing.assert_allclose(feat[0, :, 48], [0.0, 0.5], atol=1e-6)
    assert not whole[2:].any()
    assert not whole[:, 2:].any()
    np.testing.assert_allclose(deletion_value(np.array([255], np.uint8)), 2 / np.pi * np.arctan(85.0), atol=1e-6)


def test_deletions_of_extra_rows_fill_their_corner(rng: np.random.Generator) -> None:
    deletions = ((rng.random((6, 9)) < 0.4) * rng.integers(1, 256, (6, 9))).astype(np.uint8)
    has, value = np.zeros((8, 10), np.float32), np.zeros((8, 10), np.float32)
    fill_deletions(has, value, deletions)
    np.testing.assert_array_equal(has[:6, :9], deletions > 0)
    np.testing.assert_array_equal(value[:6, :9], deletion_value(deletions))
    assert not any(array[6:].any() or array[:, 9:].any() for array in (has, value))


def test_target_feat_is_the_segment_flag_then_the_residue() -> None:
    feat = make_target_feat(np.array([0, 20], np.int8))
    np.testing.assert_array_equal(feat, np.eye(22)[[1, 21]])


class TestCrop:
    @pytest.mark.parametrize("clamped", [True, False])
    def test_windows_lie_inside_and_every_start_occurs(self, rng: np.random.Generator, clamped: bool) -> None:
        starts = []
        for _ in range(2000):
            window = crop_window(30, 20, clamped, rng)
            assert window.start >= 0
            assert window.stop == window.start + 20 <= 30
            starts.append(window.start)
        assert set(starts) == set(range(11))
        assert abs(np.mean(starts) - (5.0 if clamped else 2.5)) < 0.3

    def test_a_short_chain_is_taken_whole(self, rng: np.random.Generator) -> None:
        assert crop_window(12, 20, False, rng) == slice(0, 12)

    def test_padding_fills_with_zeros_and_refuses_to_cut(self) -> None:
        fields = {"positions": np.ones((3, 37, 3)), "true_msa": np.ones((2, 3), np.uint8), "bert_mask": np.ones((2, 3), bool)}
        small = {"positions": np.ones((1, 37, 3)), "true_msa": np.ones((1, 1), np.uint8), "bert_mask": np.ones((1, 1), bool)}
        padded = fill_fields(Targets, [fields, small], {"N_res": 5, "N_clust": 4})
        assert padded["positions"].shape == (2, 5, 37, 3)
        assert padded["true_msa"].shape == (2, 4, 5)
        assert [padded["true_msa"].dtype, padded["bert_mask"].dtype] == [np.int64, np.float32]
        assert padded["bert_mask"].sum(axis=(1, 2)).tolist() == [6.0, 1.0]
        assert not padded["positions"][0, 3:].any()
        with pytest.raises(ValueError, match="broadcast"):
            fill_fields(Targets, [fields], {"N_res": 2, "N_clust": 4})


class TestTemplates:
    def test_choice_is_limited_and_none_occurs(self, rng: np.random.Generator) -> None:
        draws = [choose_templates(30, 4, 20, rng) for _ in range(500)]
        assert {len(d) for d in draws} == {0, 1, 2, 3, 4}
        assert all(len(set(d.tolist())) == len(d) for d in draws)
        assert {int(i) for d in draws for i in d} == set(range(20))
        assert len(choose_templates(0, 4, 20, rng)) == len(choose_templates(30, 0, 20, rng)) == 0

    def test_chosen_rows_and_columns(self, templated: ChainRecord) -> None:
        assert templated.templates is not None
        fields = template_features(templated.templates, np.array([2, 0]), slice(3, 9), 6)
        np.testing.assert_array_equal(fields["template_positions"], templated.templates.positions[[2, 0], 3:9])
        np.testing.assert_array_equal(fields["template_aatype"], templated.templates.aatype[[2, 0], 3:9])
        np.testing.assert_array_equal(fields["template_atom_mask"], templated.templates.mask[[2, 0], 3:9])
        np.testing.assert_array_equal(fields["template_mask"], [1, 1])
        pieces = np.array([0, 1, 7, 8, 20])
        fields = template_features(templated.templates, np.array([2, 0]), pieces, 5)
        np.testing.assert_array_equal(fields["template_positions"], templated.templates.positions[[2, 0]][:, pieces])
        np.testing.assert_array_equal(fields["template_aatype"], templated.templates.aatype[[2, 0]][:, pieces])


def test_unsure_residues_of_a_predicted_chain_are_no_targets(distilled: ChainRecord) -> None:
    length = len(distilled.sequence)
    none = np.zeros((1, length))
    mask = make_targets(distilled, slice(0, length), none, none, True, 50.0)["atom_mask"]
    assert distilled.plddt is not None
    np.testing.assert_array_equal(mask, distilled.mask * (distilled.plddt >= 50)[:, None])
    assert 0 < mask.sum() < distilled.mask.sum()
