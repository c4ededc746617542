"""The parts of a validation: sets and their hash, shares, scores, calibration, intervals, verdicts."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foldline.data_store.config import DataConfig
from foldline.data_store.ingest import ingest
from foldline.data_store.store import Store
from foldline.errors import FoldlineError
from foldline.model.all_atom import atom37_to_atom14
from foldline.model.alphafold import AlphaFold
from foldline.model.config import tiny
from foldline.model.contacts import contact_precision, contact_probability
from foldline.model.losses.clashes import between_residue_clashes, count_clashes
from foldline.trainer.best import judge
from foldline.trainer.calibration import Calibration, add, collect
from foldline.trainer.config import RunConfig, RunSection, ValidateConfig, check
from foldline.trainer.journal import Journal, side_journal
from foldline.trainer.measures import OF_CHAIN
from foldline.trainer.rundir import RunDir
from foldline.trainer.score import ChainScore
from foldline.trainer.validate import Validator
from foldline.trainer.validation_report import chain_table, journal_means, make_report
from foldline.trainer.validation_set import shared_out, validation_set
from foldline.trainer.watching import RunWatch

ROOT = Path(__file__).resolve().parents[2]
METRIC = "validate/validation/lddt_ca"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("data") / "store"
    ingest(ROOT / "examples" / "demo", path)
    return Store.open(path)


def run_config(store: str = "s", **validate: object) -> RunConfig:
    data = DataConfig(store=store, train=("1ajj_A", "1bxy_A"), validation=("1ubq_A",))
    return RunConfig(data, RunSection(dir="r", steps=4), validate=ValidateConfig(trained_chains=1, **validate))  # type: ignore[arg-type]


def test_the_hash_follows_what_is_validated(store: Store) -> None:
    config = run_config()
    chains = validation_set(config, store, ["1ajj_A", "1bxy_A"])
    assert [(c.chain_id, c.split, c.residues) for c in chains.chains] == [("1ajj_A", "trained", 37), ("1ubq_A", "validation", 76)]
    assert validation_set(replace(config, optim=replace(config.optim, lr=0.5)), store, ["1ajj_A"]).digest == chains.digest
    others = (
        validation_set(config, store, ["1bxy_A"]),
        validation_set(replace(config, features=replace(config.features, max_msa_clusters=7)), store, ["1ajj_A"]),
        validation_set(replace(config, validate=replace(config.validate, recycles=1)), store, ["1ajj_A"]),
    )
    assert len({chains.digest, *(other.digest for other in others)}) == 4
    assert chains.number == int(chains.number) == int(chains.digest[:12], 16)
    with pytest.raises(FoldlineError, match="holds no chain '9xyz_A'"):
        validation_set(config, store, ["9xyz_A"])


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_every_chain_is_folded_once_and_the_longest_first(ranks: int) -> None:
    lengths = np.random.default_rng(0).integers(30, 900, 40).tolist()
    shares = shared_out(lengths, ranks)
    assert sorted(place for share in shares for place in share) == list(range(40))
    assert all(lengths[share[i]] >= lengths[share[i + 1]] for share in shares for i in range(len(share) - 1))
    work = [sum(lengths[place] ** 2 for place in share) for share in shares]
    assert max(work) - min(work) <= max(lengths) ** 2


def test_calibration_by_hand_and_in_parts() -> None:
    rng = np.random.default_rng(1)
    predicted = rng.uniform(0, 100, 500)
    actual = np.clip(predicted + rng.normal(5, 10, 500), 0, 100)
    whole = collect(predicted, actual, 100.0, 10)
    bins = np.minimum(predicted // 10, 9)
    by_hand = sum((bins == b).mean() * abs(predicted[bins == b].mean() - actual[bins == b].mean()) for b in range(10))
    assert float(whole.error) == pytest.approx(by_hand)
    assert float(whole.correlation) == pytest.approx(np.corrcoef(predicted, actual)[0, 1])
    parts = [collect(predicted[a:b], actual[a:b], 100.0, 10) for a, b in ((0, 100), (100, 250), (250, 500))]
    assert float(add(parts).error) == pytest.approx(by_hand)
    twice = add(parts, np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0]]))
    np.testing.assert_allclose(twice.error, [by_hand, float(parts[0].error)])
    assert [row["count"] for row in whole.table()] == [(bins == b).sum() for b in range(10)]
    flat = collect(np.full(9, 70.0), rng.uniform(0, 100, 9), 100.0, 10)
    assert math.isnan(float(flat.correlation))


def scores(values: list[float], lengths: list[int] | None = None) -> list[ChainScore]:
    """Chains that differ in lDDT-Cα alone; 0.5 elsewhere."""
    none = Calibration(100.0, np.zeros((10, 3)), np.zeros(6))
    found = []
    for number, value in enumerate(values):
        residues = np.zeros(lengths[number] if lengths else 50)
        numbers = dict.fromkeys(OF_CHAIN, 0.5) | {"lddt_ca": value, "contacts_24": math.nan}
        found.append(ChainScore(f"{number}", "validation", numbers, none, None, residues, residues, residues))
    return found


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    """Of 200 sets of 40 chains, about 95 % of the intervals hold the mean of the distribution they were drawn from."""
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        found = make_report(scores(rng.beta(8, 2, 40).tolist()), "", 0, "")["splits"]["validation"]["measures"]["lddt_ca"]
        held += found["low"] <= 0.8 <= found["high"]
    assert 180 <= held <= 198


def test_reports_split_by_length_and_leave_out_what_is_not_defined() -> None:
    report = make_report(scores([0.2, 0.4, 0.9], [50, 100, 500]), "", 7, "")
    found = report["splits"]["validation"]
    assert found["measures"]["lddt_ca"]["mean"] == pytest.approx(0.5)
    assert [(part["from"], part["to"], part["chains"], part["measures"]["lddt_ca"]["mean"]) for part in found["by_length"]] == [
        (1, 100, 2, pytest.approx(0.3)),
        (401, 800, 1, pytest.approx(0.9)),
    ]
    assert found["by_length"][1]["measures"]["lddt_ca"]["low"] is None
    assert found["measures"]["contacts_24"] == {"mean": None, "low": None, "high": None, "chains": 0}
    assert journal_means(report)[METRIC] == pytest.approx(0.5)
    assert "validate/validation/contacts_24" not in journal_means(report)
    assert chain_table(report).splitlines()[1].startswith("0,validation,50,0.2,")


def test_contacts_by_hand() -> None:
    """Ten residues on a line but for three that come back to the first: of the two surest pairs 6 apart, one is a contact."""
    beta = torch.stack((torch.arange(12) * 9.0, torch.zeros(12), torch.zeros(12)), -1)
    beta[9] = beta[0] + 1.0
    mask = torch.ones(12)
    mask[11] = 0
    probability = torch.zeros(12, 12)
    probability[0, 9], probability[1, 8], probability[0, 11], probability[2, 3] = 0.9, 0.8, 1.0, 1.0
    number = torch.arange(12)
    assert contact_precision(probability, beta, mask, number, 6) == 0.5
    assert math.isnan(contact_precision(probability, beta, mask, number, 24))
    for place, share in ((0, 1.0), (18, 1.0), (19, 0.2), (20, 0.0), (63, 0.0)):  # bin 19 reaches from 7.9375 to 8.25 Å
        logits = torch.full((1, 1, 64), -30.0)
        logits[..., place] = 0.0
        assert float(contact_probability(logits, 2.3125, 21.6875)) == pytest.approx(share, abs=1e-6)


def test_clashes_are_those_of_the_loss(store: Store) -> None:
    record = store.record("1ubq_A")
    aatype, number = torch.from_numpy(record.aatype).long(), torch.from_numpy(record.residue_index).long()
    atom14, mask = atom37_to_atom14(aatype, torch.from_numpy(record.positions), torch.from_numpy(record.mask.astype(np.float32)))
    assert count_clashes(atom14, mask, number, aatype).pairs == 0
    squeezed = 0.7 * atom14
    counted, loss = count_clashes(squeezed, mask, number, aatype), between_residue_clashes(squeezed, mask, number, aatype)
    assert counted.pairs > 10
    assert torch.equal(counted.residues, loss.mask.amax(-1))


def test_every_measure_is_finite_for_an_untrained_network(store: Store) -> None:
    config = replace(run_config(str(store.path)), model=replace(tiny(), template=replace(tiny().template, enabled=False)))
    config = replace(config, features=replace(config.features, max_templates=0, max_msa_clusters=4, max_extra_msa=4))
    config = replace(config, validate=replace(config.validate, recycles=0))
    torch.manual_seed(1)
    model = AlphaFold(config.model)
    found = Validator(config, store, ["1ajj_A"], torch.device("cpu")).run(model.state_dict())
    assert [score.chain_id for score in found] == ["1ajj_A", "1ubq_A"]
    for score in found:
        assert score.values.keys() == OF_CHAIN.keys()
        assert all(math.isfinite(value) for name, value in score.values.items() if not name.startswith("contacts"))
        assert score.pae_pairs is not None
        assert score.plddt_pairs.bins[:, 0].sum() == score.mask.sum()


def journal(path: Path, values: dict[int, float], set_number: float = 1.0) -> None:
    writer = Journal(path)
    for step, value in values.items():
        writer.append("validate", step, {METRIC: value, "validate/set": set_number, "validate/validation/rmsd_ca": 10 * (1 - value)})
    writer.close()


def verdict_config(**validate: object) -> RunConfig:
    config = run_config(**validate)
    return replace(config, run=replace(config.run, keep_best=2))


def test_the_best_checkpoints_are_those_of_the_metric(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal(path, {0: 0.99, 1: 0.2, 2: 0.6, 3: 0.5, 4: 0.6, 5: 0.9})
    assert judge(path, verdict_config(), [1, 2, 3, 4]).best == (2, 4)
    assert judge(path, verdict_config(), range(9)).best == (5, 2)
    assert judge(path, verdict_config(metric="validate/validation/rmsd_ca"), range(9)).best == (5, 2)
    assert judge(path, run_config(), range(9)) == ((), "")
    journal(side_journal(path), {6: 0.95})
    assert judge(path, verdict_config(), range(9)).best == (6, 5)
    Journal(path).append("resume", 4, {})  # what came after step 4 is void
    assert judge(path, verdict_config(), range(9)).best == (2, 4)
    journal(path, {5: 0.1}, set_number=2.0)
    assert judge(path, verdict_config(), range(9)).best == (5,)


def test_patience_counts_validations_since_the_last_gain(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal(path, {0: 0.9, 1: 0.50, 2: 0.60, 3: 0.605, 4: 0.61})
    assert judge(path, verdict_config(patience=3), []).ends == ""
    assert judge(path, verdict_config(patience=2), []).ends == ""
    ended = judge(path, verdict_config(patience=2, min_delta=0.05), []).ends
    assert "not improved by more than 0.05 in 2 validations since step 2 (0.6)" in ended
    assert "ends early at step 4; raise validate.patience" in ended


@pytest.mark.parametrize(
    ("validate", "message"),
    [
        ({"mode": "later"}, "validate.mode = 'later' is none of inline, async"),
        ({"metric": "validate/validation/lddt"}, "ranks nothing; did you mean 'validate/validation/lddt_"),
        ({"metric": "validate/validation/plddt"}, "ranks nothing"),
        ({"patience": -1}, "validate.patience = -1 is negative"),
        ({"patience": 1, "every": 0}, "set validate.every"),
    ],
)
def test_bad_settings_are_named(validate: dict[str, object], message: str) -> None:
    with pytest.raises(FoldlineError) as error:
        check(run_config(**validate))
    assert message in str(error.value)


def test_a_killed_run_is_seen_to_be_gone(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert RunWatch(run, 100.0).ended() == ""
    assert "written nothing for 0 s" in RunWatch(run, 0.0).ended()
    ended = subprocess.Popen(["true"])
    ended.wait()
    run.state.write_text(json.dumps({"state": "running", "host": socket.gethostname(), "pid": ended.pid}))
    assert RunWatch(run, 100.0).ended() == ""  # a restart may follow
    assert "the run is lost" in RunWatch(run, 0.0).ended()
    run.state.write_text(json.dumps({"state": "running", "host": socket.gethostname(), "pid": os.getpid()}))
    watch = RunWatch(run, 100.0)
    assert watch.ended() == ""
    run.state.write_text('{"state": "stopped"}')
    assert "is stopped" in watch.ended()


def test_an_end_of_the_start_before_is_not_the_end(tmp_path: Path) -> None:
    """A side job that is started beside --resume finds how the run ended last, until the training tells that it runs."""
    run = RunDir(tmp_path)
    run.state.write_text('{"state": "stopped"}')
    watch = RunWatch(run, 100.0)
    assert watch.ended() == ""
    run.state.write_text(json.dumps({"state": "running", "host": socket.gethostname(), "pid": os.getpid()}))
    assert watch.ended() == ""
    run.state.write_text('{"state": "finished"}')
    assert "is finished" in watch.ended()
    assert "is finished" in RunWatch(run, 0.0).ended()  # nothing follows
