"""What is trained on and what is held out: each rule at its border, and which of two rules counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldline.data_store.chain_table import read_chain_table
from foldline.data_store.config import DataConfig
from foldline.data_store.filters import split_chains
from foldline.data_store.residues import largest_share
from foldline.data_store.store import Store
from foldline.errors import FoldlineError

from .chain_cases import chain, distilled, table


def trained(chains: list[dict[str, Any]], **data: Any) -> set[str]:
    rows = table(*chains)
    return set(rows.chain_id[split_chains(rows, DataConfig(**data)).train].tolist())


@pytest.mark.parametrize(
    ("columns", "data", "reason"),
    [
        ({"resolution": 9.0}, {}, ""),
        ({"resolution": 0.0}, {}, ""),
        ({"resolution": 9.01}, {}, "resolution above data.max_resolution = 9.0"),
        ({"largest_share": 0.80}, {}, ""),
        ({"largest_share": 0.81}, {}, "one residue type"),
        ({"weight": 0.0}, {}, "weight not above 0"),
        ({"weight": float("nan")}, {}, "weight not above 0"),
        ({"length": 20}, {"min_length": 20}, ""),
        ({"length": 19}, {"min_length": 20}, "shorter than data.min_length = 20"),
        ({"length": 99}, {"max_length": 99}, ""),
        ({"length": 100}, {"max_length": 99}, "longer than data.max_length = 99"),
        ({"release_date": "2018-04-30"}, {"released_until": "2018-04-30"}, ""),
        ({"release_date": "2018-05-01"}, {"released_until": "2018-04-30"}, "released after"),
        ({"release_date": "2018-04-30"}, {"released_from": "2018-04-30"}, ""),
        ({"release_date": "2018-04-29"}, {"released_from": "2018-04-30"}, "released before"),
        ({}, {"released_from": "2018-04-30"}, "no release date"),
        ({"source": "distillation"}, {"released_from": "2018-04-30", "methods": ("EPR",)}, ""),
        ({"source": "distillation"}, {"sources": ("experimental",)}, "source not in data.sources = experimental"),
        ({"method": "SOLUTION NMR"}, {"methods": ("x-ray diffraction", "solution nmr")}, ""),
        ({"method": "X-RAY DIFFRACTION; NEUTRON DIFFRACTION"}, {"methods": ("NEUTRON DIFFRACTION",)}, ""),
        ({"method": "SOLUTION NMR"}, {"methods": ("X-RAY DIFFRACTION",)}, "method not in data.methods"),
        ({}, {"methods": ("X-RAY DIFFRACTION",)}, "method not in data.methods"),
    ],
)
def test_filters_at_their_borders(columns: dict[str, Any], data: dict[str, Any], reason: str) -> None:
    split = split_chains(table(chain("a", **columns)), DataConfig(**data))
    assert (len(split.train), len(split.reasons), len(split.held_out)) == ((0, 1, 0) if reason else (1, 0, 0))
    assert all(told.startswith(reason) for told in split.reasons)


def test_each_dropped_chain_counts_once_and_only_where_it_was_asked_for() -> None:
    chains = table(chain("a", resolution=20.0, length=3), chain("b", length=3), chain("c"), chain("d", resolution=20.0))
    split = split_chains(chains, DataConfig(train=("a", "b", "c"), min_length=5))
    assert chains.chain_id[split.train].tolist() == ["c"]
    assert split.reasons == Counter({"resolution above data.max_resolution = 9.0 Å": 1, "shorter than data.min_length = 5": 1})


def test_lists_choose_chains_and_unknown_ids_are_refused() -> None:
    chains = [chain(name) for name in ("1ubq_A", "1ctf_A", "1tig_A")]
    assert trained(chains, validation=("1ctf_A",)) == {"1ubq_A", "1tig_A"}
    assert trained(chains, validation=("1ctf_A",), train=("1tig_A",)) == {"1tig_A"}
    assert trained(chains, hold_out=("1ctf_A", "1tig_A")) == {"1ubq_A"}
    with pytest.raises(FoldlineError, match=r"data.train: the store has no chain '1ubq_B'; did you mean '1ubq_A'\?"):
        trained(chains, train=("1ctf_A", "1ubq_B"))
    with pytest.raises(FoldlineError, match=r"data.validation: the store has no chain '1ctf_C' and 1 more"):
        trained(chains, validation=("1ctf_C", "9xyz_A"))


def test_held_out_by_date_wins_over_the_list_of_training_chains() -> None:
    chains = [chain("old", release_date="2018-04-30"), chain("new", release_date="2018-05-01"), chain("undated"), distilled("predicted")]
    split = split_chains(table(*chains), DataConfig(hold_out_after="2018-04-30", train=("old", "new", "undated", "predicted")))
    assert (split.train.tolist(), split.held_out.tolist()) == ([0, 3], [1])
    assert split.reasons == {
        "held out by data.hold_out_after = 2018-04-30": 1,
        "no release date, which data.hold_out_after asks for": 1,
    }


def test_held_out_by_files(tmp_path: Path) -> None:
    chains = [chain("a", cluster_id="k"), chain("b", cluster_id="k"), chain("c", cluster_id="m"), chain("d"), chain("e")]
    names, clusters = tmp_path / "names.txt", tmp_path / "clusters.txt"
    names.write_text("# held out\n\ne  a comment\n")
    assert trained(chains, hold_out_file=str(names)) == {"a", "b", "c", "d"}
    for text, left in (("k\n", {"c", "d", "e"}), ("b\nd\n", {"c", "e"})):  # a cluster's id, or a chain that stands for it
        clusters.write_text(text)
        assert trained(chains, hold_out_clusters=str(clusters)) == left
    clusters.write_text("kk\n")
    with pytest.raises(FoldlineError, match=r"names 'kk', which is neither a cluster nor a chain of the store; did you mean 'k'\?"):
        trained(chains, hold_out_clusters=str(clusters))
    clusters.write_text("\n")
    with pytest.raises(FoldlineError, match=r"data.hold_out_clusters = .*clusters.txt names nothing"):
        trained(chains, hold_out_clusters=str(clusters))
    with pytest.raises(FoldlineError, match=r"data.hold_out_file = .*missing.txt cannot be read"):
        trained(chains, hold_out_file=str(tmp_path / "missing.txt"))


def test_relatives_of_held_out_chains_are_left_out_on_request() -> None:
    chains = [chain("v", cluster_id="k", pdb_id="1abc"), chain("kin", cluster_id="k"), chain("entry", pdb_id="1ABC"), chain("stranger")]
    assert trained(chains, validation=("v",)) == {"kin", "entry", "stranger"}
    split = split_chains(table(*chains), DataConfig(validation=("v",), hold_out_relatives=True))
    assert (split.train.tolist(), split.held_out.tolist()) == ([3], [0])
    assert trained([chain("v"), chain("of nothing known")], validation=("v",), hold_out_relatives=True) == {"of nothing known"}


def test_validation_chains_are_held_out_even_when_a_filter_drops_them() -> None:
    for train in ((), ("a",)):
        split = split_chains(table(chain("v", resolution=20.0), chain("a")), DataConfig(validation=("v",), train=train))
        assert (split.train.tolist(), split.held_out.tolist()) == ([1], [0])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"methods": ("X-RAY DIFRACTION",)},
            r"data.methods: no experiment is called 'X-RAY DIFRACTION'; did you mean 'X-RAY DIFFRACTION'\?",
        ),
        ({"sources": ("experiment",)}, r"data.sources = experiment is not known; did you mean 'experimental'\?"),
        ({"allowed_leaks": ("entries",)}, r"data.allowed_leaks = entries is not known; did you mean 'entry'\?"),
        ({"hold_out_after": "30.04.2018"}, r"data.hold_out_after = 30.04.2018 is not a date like 2018-04-30"),
        ({"released_until": "20180430"}, r"data.released_until = 20180430 is not a date"),
        ({"released_from": "2019-01-01", "released_until": "2018-01-01"}, r"data.released_from = 2019-01-01 is later than"),
        ({"min_length": 9, "max_length": 8}, r"data.max_length = 8 must be 0 \(no limit\) or at least data.min_length = 9"),
        ({"distillation_fraction": 1.5}, r"data.distillation_fraction = 1.5 must lie between 0 and 1"),
        ({"train": ("a",), "hold_out": ("a",)}, r"data.train and hold_out = \['a'\] share chains"),
    ],
)
def test_impossible_settings_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(FoldlineError, match=message):
        trained([chain("a")], **data)


def test_columns_are_those_of_the_records(demo_store: Path) -> None:
    store = Store.open(demo_store)
    chains = read_chain_table(store)
    for row, name in enumerate(store.chain_ids):
        record = store.record(name)
        assert chains.largest_share[row] == np.float32(max(Counter(record.sequence).values()) / len(record.sequence))
        assert (chains.chain_id[row], chains.length[row]) == (name, len(record.sequence))
        for column in ("resolution", "weight", "release_date", "method", "source", "pdb_id", "cluster_id"):
            assert getattr(chains, column)[row] == getattr(record.metadata, column)


def test_a_share_at_the_limit_passes_as_a_stored_number() -> None:
    assert len(split_chains(table(chain("a", largest_share=largest_share(np.array([0, 0, 0, 0, 1])))), DataConfig()).train) == 1
