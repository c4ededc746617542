"""What holds for every runner. A test class of an engine derives from ``RunnerLaws``, says how to make one, and inherits all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from foldline.data_store.config import FeatureConfig
from foldline.data_store.featurize import inference_cycles
from foldline.data_store.types import ChainRecord, FeatureBatch
from foldline.errors import FoldlineError
from foldline.export.graph import Arrays, crop_outputs, output_schema, pad_feeds, sizes_of
from foldline.export.recycling import recycle
from foldline.export.runners import Runner, TorchRunner, feature_schema, features_of, fit, result_names, run_fitted
from foldline.model.alphafold import AlphaFold
from foldline.tests.export.cases import with_templates

Traced = tuple[AlphaFold, Path]
SIZES = [("1ajj_A", 8, 16, 2), ("1ajj_A", 1, 1, 0), ("2hba_A", 5, 1, 1), ("2hba_A", 8, 16, 0)]  # chain, MSA clusters, extra rows, templates
PASSES = 3


class RunnerLaws:
    """``make`` is called once per network; skip in it where the engine cannot run. ``atol`` are the largest differences from PyTorch."""

    atol_positions = 2e-3  # ångström
    atol_logits = 5e-4

    def make(self, model: AlphaFold, graphs: Path, folder: Path) -> Runner:
        """The runner of ``model``, whose exported graphs are at ``graphs``; ``folder`` is empty and stays."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def made(self) -> Iterator[dict[Path, Runner]]:
        """Runners by graph: engines take long to build."""
        runners: dict[Path, Runner] = {}
        yield runners
        runners.clear()

    @pytest.fixture
    def runner(self, traced: Traced, made: dict[Path, Runner], tmp_path: Path) -> Runner:
        if traced[1] not in made:
            made[traced[1]] = self.make(*traced, tmp_path)
        return made[traced[1]]

    @pytest.fixture
    def features(self, runner: Runner, records: dict[str, ChainRecord]) -> Arrays:
        (batch,) = cycles_of(records["1ajj_A"], 8, 16, 1, passes=1)
        return features_of(batch, runner.config)

    @pytest.mark.parametrize(("name", "clusters", "extra", "templates"), SIZES)
    def test_the_numbers_are_pytorchs_at_every_size_and_pass(
        self, runner: Runner, traced: Traced, records: dict[str, ChainRecord], name: str, clusters: int, extra: int, templates: int
    ) -> None:
        cycles = cycles_of(records[name], clusters, extra, templates, PASSES)
        sizes = sizes_of(features_of(cycles[0], runner.config), feature_schema(runner.config))
        assert (sizes["N_res"], sizes["N_clust"]) == (len(records[name].sequence), clusters)
        reference = TorchRunner(traced[0])
        ours, theirs = recycle(reference, cycles), recycle(runner, cycles)
        assert (theirs.passes, list(theirs.outputs)) == (PASSES, result_names(runner.config))
        self.assert_close(theirs.outputs, ours.outputs)
        assert theirs.change == pytest.approx(ours.change, abs=self.atol_positions)
        assert ours.change is not None
        assert ours.change > 0.01, "recycling changed nothing: it was not tested"

    def test_recycled_tensors_are_pytorchs(self, runner: Runner, features: Arrays, traced: Traced) -> None:
        ours, theirs = run_fitted(TorchRunner(traced[0]), features), run_fitted(runner, features)
        assert list(theirs) == list(output_schema(runner.config))
        self.assert_close(theirs, ours)

    def test_outputs_follow_the_schema(self, runner: Runner, features: Arrays) -> None:
        n = len(features["aatype"])
        expected = {name: tuple(n if d == "N_res" else d for d in field.dims) for name, field in output_schema(runner.config).items()}
        outputs = run_fitted(runner, features)
        assert {name: value.shape for name, value in outputs.items()} == expected
        assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in outputs.values())

    def test_padding_changes_nothing_real_in_any_pass(self, runner: Runner, records: dict[str, ChainRecord]) -> None:
        config, schema = runner.config, feature_schema(runner.config)
        batches = [features_of(batch, config) for batch in cycles_of(records["1ajj_A"], 6, 9, 1, PASSES)]
        n = len(batches[0]["aatype"])
        plain = self.passes(runner, [fit(batch, runner) for batch in batches])
        padded = [pad_feeds(batch, schema, {name: size + 3 for name, size in sizes_of(batch, schema).items()}) for batch in batches]
        longer = self.passes(runner, [fit(batch, runner) for batch in padded])
        assert longer["positions"].shape[0] >= n + 3
        for outputs in (plain, longer):
            outputs |= crop_outputs(outputs, output_schema(config), n)
        self.assert_close(longer, plain)
        for batch in padded:
            batch["seq_mask"][:] = 1
        unmasked = self.passes(runner, [fit(batch, runner) for batch in padded])
        moved = np.abs(unmasked["positions"][:n] - plain["positions"]).max()
        assert moved > 0.01, "the masks are not what holds the padding off"

    def test_the_same_input_gives_the_same_bits(self, runner: Runner, records: dict[str, ChainRecord]) -> None:
        cycles = cycles_of(records["1ajj_A"], 8, 16, 1, 2)
        once, again = recycle(runner, cycles), recycle(runner, cycles)
        for name, value in once.outputs.items():
            np.testing.assert_array_equal(value, again.outputs[name], err_msg=name)

    def test_inputs_are_left_as_they_are(self, runner: Runner, features: Arrays) -> None:
        before = {name: value.copy() for name, value in features.items()}
        run_fitted(runner, features)
        for name, value in before.items():
            np.testing.assert_array_equal(features[name], value, err_msg=name)

    def test_what_was_fetched_survives_the_next_pass(self, runner: Runner, features: Arrays) -> None:
        once = run_fitted(runner, features)
        kept = {name: value.copy() for name, value in once.items()}
        run_fitted(runner, features | {"target_feat": np.roll(features["target_feat"], 1, 0)})
        for name, value in kept.items():
            np.testing.assert_array_equal(once[name], value, err_msg=name)

    def test_what_is_no_feature_of_the_schema_is_refused(self, runner: Runner, features: Arrays) -> None:
        fitted = fit(features, runner)
        with pytest.raises(ValueError, match="aatype"):
            runner.start({name: value for name, value in fitted.items() if name != "aatype"}, None)
        with pytest.raises(ValueError, match="target_feat"):
            runner.start(fitted | {"target_feat": fitted["target_feat"][:-1]}, None)
        with pytest.raises(ValueError, match="msa_mask"):
            runner.start(fitted | {"msa_mask": fitted["msa_mask"][..., None]}, None)

    def test_a_state_of_another_chain_is_refused(self, runner: Runner, records: dict[str, ChainRecord], features: Arrays) -> None:
        state = runner.start(fit(features, runner), None)
        (other,) = cycles_of(records["2hba_A"], 8, 16, 1, passes=1)
        with pytest.raises(ValueError, match="of another chain"):
            runner.start(fit(features_of(other, runner.config), runner), state)

    def test_every_limit_is_kept(self, runner: Runner, features: Arrays) -> None:
        schema = feature_schema(runner.config)
        for name, (_, high) in runner.limits.items():
            with pytest.raises(FoldlineError, match=rf"{name} = {high + runner.multiple} is outside \d+..{high}"):
                runner.start(fit(pad_feeds(features, schema, {name: high + runner.multiple}), runner), None)
        if runner.multiple > 1:
            with pytest.raises(FoldlineError, match=f"no multiple of {runner.multiple}"):
                runner.start(pad_feeds(features, schema, {"N_res": fit(features, runner)["aatype"].size + 1}), None)

    def passes(self, runner: Runner, batches: list[Arrays]) -> Arrays:
        """All outputs of the last pass, padding included."""
        state = None
        for batch in batches:
            state = runner.start(batch, state)
        assert state is not None
        return state.fetch(list(output_schema(runner.config)))

    def assert_close(self, theirs: Arrays, ours: Arrays) -> None:
        for name, value in ours.items():
            atol = self.atol_positions if name in ("positions", "next_x") else self.atol_logits
            np.testing.assert_allclose(theirs[name], value, rtol=1e-4, atol=atol, err_msg=name)


def cycles_of(record: ChainRecord, clusters: int, extra: int, templates: int, passes: int) -> list[FeatureBatch]:
    """Feature sets of a real chain with up to two templates."""
    features = FeatureConfig(max_msa_clusters=clusters, max_extra_msa=extra, max_templates=templates)
    return list(inference_cycles(with_templates(record, 2), features, 0, passes))
