"""Whole samples of real chains: what a seed fixes, what a crop keeps together, what padding masks, what bad records get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from foldline.data_store.config import DataConfig, FeatureConfig, finetune, initial
from foldline.data_store.features.masking import MASK_TOKEN
from foldline.data_store.featurize import inference_cycles, training_sample
from foldline.data_store.types import ChainRecord, FeatureBatch, Msa, TrainBatch, schema_of
from foldline.errors import FoldlineError
from foldline.settings import from_dict, to_dict

CONFIG = FeatureConfig(crop_size=48, max_msa_clusters=12, max_extra_msa=24, max_templates=2)


def same(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def residues_of(sample: TrainBatch, record: ChainRecord) -> np.ndarray:
    """Rows of the record's arrays that the sample shows, found by the residue numbers."""
    features = sample.cycles[0]
    return np.searchsorted(record.residue_index, features.residue_index[features.seq_mask == 1])


class TestTrainingSample:
    @pytest.mark.parametrize("config", [CONFIG, FeatureConfig()], ids=["small", "initial"])
    def test_every_field_has_the_fixed_size_and_type(self, templated: ChainRecord, config: FeatureConfig) -> None:
        sample = training_sample(templated, config, 3, 2, 17)
        sizes = {
            "N_res": config.crop_size,
            "N_clust": config.max_msa_clusters,
            "N_extra": config.max_extra_msa,
            "N_templ": config.max_templates,
        }
        for batch in (*sample.cycles, sample.targets):
            for name, schema in schema_of(type(batch)).items():
                value = getattr(batch, name)
                assert value.dtype == {"int": np.int64, "float": np.float32}[schema.kind], name
                assert value.shape == tuple(sizes.get(str(d), d) for d in schema.dims), name
                assert np.isfinite(value).all(), name
        assert int(sample.position) == 17

    def test_a_seed_fixes_everything_and_another_changes_the_sample(self, deep: ChainRecord) -> None:
        one, again, other = (training_sample(deep, CONFIG, seed, 2) for seed in (5, 5, 6))
        assert all(same(a, b) for a, b in zip((*one.cycles, one.targets), (*again.cycles, again.targets), strict=True))
        assert not np.array_equal(one.cycles[0].msa_feat, other.cycles[0].msa_feat)

    def test_a_pass_is_the_same_however_many_follow(self, deep: ChainRecord) -> None:
        assert same(training_sample(deep, CONFIG, 5, 1).cycles[0], training_sample(deep, CONFIG, 5, 4).cycles[0])

    def test_passes_share_the_crop_and_differ_in_their_alignment(self, templated: ChainRecord) -> None:
        first, *others = training_sample(templated, CONFIG, 8, 4).cycles
        fixed = [n for n in FeatureBatch._fields if "msa" not in n and "deletion" not in n]
        for other in others:
            assert all(np.array_equal(getattr(first, n), getattr(other, n)) for n in fixed)
            assert not np.array_equal(first.msa_feat, other.msa_feat)
            assert not np.array_equal(first.extra_msa, other.extra_msa)

    @pytest.mark.parametrize("seed", range(5))
    def test_crop_keeps_features_and_targets_together(self, deep: ChainRecord, seed: int) -> None:
        sample = training_sample(deep, CONFIG, seed, 2)
        features, targets, at = sample.cycles[-1], sample.targets, residues_of(sample, deep)
        n = len(at)
        assert n == min(CONFIG.crop_size, len(deep.sequence))
        assert (np.diff(at) == 1).all()
        np.testing.assert_array_equal(features.aatype[:n], deep.aatype[at])
        np.testing.assert_array_equal(targets.positions[:n], deep.positions[at])
        np.testing.assert_array_equal(targets.atom_mask[:n], deep.mask[at])
        np.testing.assert_array_equal(targets.true_msa[0, :n], deep.msas[0].rows[0, at])
        rows = {row.tobytes() for row in deep.msas[0].rows[:, at]}
        assert all(row.astype(np.uint8).tobytes() in rows for row in features.extra_msa[features.extra_msa_mask[:, 0] == 1][:, :n])

    def test_targets_are_of_the_last_pass(self, deep: ChainRecord) -> None:
        sample = training_sample(deep, CONFIG, 2, 3)
        shown = sample.cycles[-1].msa_feat[..., :23].argmax(-1)
        clear = (sample.targets.bert_mask == 0) & (sample.cycles[-1].msa_mask == 1)
        np.testing.assert_array_equal(shown[clear], sample.targets.true_msa[clear])
        assert (shown[sample.targets.bert_mask == 1] == MASK_TOKEN).mean() > 0.5
        first = sample.cycles[0].msa_feat[..., :23].argmax(-1)
        assert not np.array_equal(first[clear], sample.targets.true_msa[clear])

    def test_padding_is_masked_and_zero(self, deep: ChainRecord, shallow: ChainRecord) -> None:
        config = replace(CONFIG, crop_size=len(shallow.sequence) + 10, max_msa_clusters=4096, max_extra_msa=512)
        for record in (shallow, replace(deep, msas=(Msa("few", deep.msas[0].rows[:3], deep.msas[0].deletions[:3]),))):
            sample = training_sample(record, config, 1, 1)
            features, targets = sample.cycles[0], sample.targets
            n, depth = int(features.seq_mask.sum()), int(features.msa_mask[:, 0].sum())
            assert n == min(len(record.sequence), config.crop_size)
            assert features.msa_mask.sum() == n * depth
            assert not features.msa_feat[depth:].any()
            assert not features.extra_msa_mask.any()  # every row is a centre
            assert not features.extra_msa.any()
            assert not targets.bert_mask[depth:].any()
            for name, schema in schema_of(FeatureBatch).items():
                if n < config.crop_size and "N_res" in schema.dims:
                    assert not np.take(getattr(features, name), range(n, config.crop_size), axis=schema.dims.index("N_res")).any(), name
            assert not features.template_mask.any()

    def test_nine_of_ten_samples_are_clamped(self, shallow: ChainRecord) -> None:
        clamped = [training_sample(shallow, CONFIG, seed, 1).targets.use_clamped_fape for seed in range(400)]
        assert abs(np.mean(clamped) - 0.9) < 0.05
        never = replace(CONFIG, clamped_fape_fraction=0.0)
        assert not training_sample(shallow, never, 0, 1).targets.use_clamped_fape

    def test_a_distillation_entry_shows_a_thinner_alignment(self, distilled: ChainRecord) -> None:
        config = replace(CONFIG, max_extra_msa=4096, distillation_max_msa=30, block_delete_count=0)
        features = training_sample(distilled, config, 1, 1).cycles[0]
        assert features.msa_mask[:, 0].sum() + features.extra_msa_mask[:, 0].sum() == 30
        whole = replace(distilled, metadata=replace(distilled.metadata, source="experimental"))
        features = training_sample(whole, config, 1, 1).cycles[0]
        assert features.msa_mask[:, 0].sum() + features.extra_msa_mask[:, 0].sum() > 30

    def test_block_deletion_thins_the_alignment(self, deep: ChainRecord) -> None:
        def depth(config: FeatureConfig) -> float:
            return float(training_sample(deep, config, 4, 1).cycles[0].extra_msa_mask[:, 0].sum())

        wide = replace(CONFIG, max_extra_msa=4096)
        assert depth(wide) < depth(replace(wide, block_delete_count=0))


class TestInferenceCycles:
    def test_whole_chain_without_masking(self, deep: ChainRecord) -> None:
        cycles = inference_cycles(deep, CONFIG, 0, 3)
        assert len(cycles) == 3
        rows = {row.tobytes() for row in deep.msas[0].rows}
        for features in cycles:
            assert features.aatype.shape == (len(deep.sequence),)
            assert features.msa_feat.shape[0] == CONFIG.max_msa_clusters
            assert features.extra_msa.shape[0] == CONFIG.max_extra_msa
            shown = features.msa_feat[..., :23].argmax(-1).astype(np.uint8)
            np.testing.assert_array_equal(shown[0], deep.msas[0].rows[0])
            assert {row.tobytes() for row in shown} <= rows
            assert all(mask.all() for mask in (features.seq_mask, features.msa_mask, features.extra_msa_mask))
        assert not np.array_equal(cycles[0].extra_msa, cycles[1].extra_msa)
        assert same(cycles[2], inference_cycles(deep, CONFIG, 0, 3)[2])

    def test_masking_when_it_is_asked_for(self, deep: ChainRecord) -> None:
        masked = inference_cycles(deep, replace(CONFIG, inference_masked_msa_fraction=0.15), 0, 1)[0]
        assert 0.05 < masked.msa_feat[..., MASK_TOKEN].mean() < 0.16

    def test_a_single_sequence_gets_masked_rows_where_there_is_nothing(self, deep: ChainRecord) -> None:
        query = Msa("query", deep.msas[0].rows[:1], deep.msas[0].deletions[:1])
        features = inference_cycles(replace(deep, msas=(query,), templates=None), CONFIG, 0, 1)[0]
        length = len(deep.sequence)
        assert features.msa_feat.shape == (1, length, 49)
        np.testing.assert_allclose(features.msa_feat[..., 25:48], features.msa_feat[..., :23], atol=2e-6)
        assert features.extra_msa_mask.shape == (1, length)
        assert not features.extra_msa_mask.any()
        assert features.template_aatype.shape == (1, length)
        assert features.template_mask.tolist() == [0.0]

    def test_the_best_templates_are_shown_or_none_when_switched_off(self, templated: ChainRecord) -> None:
        assert templated.templates is not None
        features = inference_cycles(templated, CONFIG, 0, 1)[0]
        np.testing.assert_array_equal(features.template_aatype, templated.templates.aatype[: CONFIG.max_templates])
        assert features.template_mask.tolist() == [1.0, 1.0]
        off = inference_cycles(templated, replace(CONFIG, max_templates=0), 0, 1)[0]
        assert off.template_mask.tolist() == [0.0]
        assert not off.template_atom_mask.any()


class TestBadInput:
    def test_an_alignment_of_another_width(self, deep: ChainRecord) -> None:
        wide = Msa("wide", deep.msas[0].rows[:, :-1], deep.msas[0].deletions[:, :-1])
        with pytest.raises(FoldlineError, match=rf"{deep.metadata.chain_id}.*'wide'.*{len(deep.sequence)} residues"):
            training_sample(replace(deep, msas=(deep.msas[0], wide)), CONFIG, 0, 1)

    def test_no_alignment_and_impossible_numbers(self, deep: ChainRecord) -> None:
        with pytest.raises(FoldlineError, match="0 alignments"):
            inference_cycles(replace(deep, msas=()), CONFIG, 0, 1)
        with pytest.raises(FoldlineError, match="passes 0"):
            training_sample(deep, CONFIG, 0, 0)
        with pytest.raises(FoldlineError, match="seed -1"):
            training_sample(deep, CONFIG, -1, 1)

    @pytest.mark.parametrize(
        ("values", "rule"),
        [
            ({"crop_size": 0}, "crop_size = 0 must be at least 1"),
            ({"max_templates": -1}, "max_templates = -1 must be at least 0"),
            ({"masked_msa_fraction": 1.5}, "masked_msa_fraction = 1.5 must lie between 0 and 1"),
            ({"mask_same_probability": 0.9}, "must add up to at most 1"),
            ({"crop_sise": 3}, "did you mean 'crop_size'"),
        ],
    )
    def test_config_values_out_of_range(self, values: dict[str, float], rule: str) -> None:
        with pytest.raises(FoldlineError, match=rule):
            from_dict(FeatureConfig, values, "test")

    def test_a_chain_in_both_lists(self) -> None:
        with pytest.raises(FoldlineError, match=r"\['b'\] share chains"):
            DataConfig(train=("a", "b"), validation=("b",))


def test_presets_survive_their_json_form() -> None:
    for preset in (initial, finetune):
        assert from_dict(FeatureConfig, to_dict(preset()), "test") == preset()
        assert from_dict(FeatureConfig, {"preset": preset.__name__}, "test") == preset()
    assert from_dict(DataConfig, to_dict(DataConfig(train=("a",))), "test") == DataConfig(train=("a",))
    assert finetune().max_msa_clusters + finetune().max_templates == 512
