"""The gate's proteins: a length bin each, by rule, from the run's chains before any others."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from foldline.data_store.fold_input import read_fold_input
from foldline.errors import FoldlineError
from foldline.export import gate_proteins
from foldline.export.config import GateConfig
from foldline.export.gate_proteins import BUNDLED, Selection, select_proteins
from foldline.tests.export.conftest import DEMO

LENGTHS = {"1ajj_A": 37, "2hba_A": 52}  # of the store of ``run_dir``
SHORT = GateConfig(bins=(40, 64), covered_bins=2, deep_rows=0)


@pytest.fixture(scope="module")
def store(run_dir: Path) -> Path:
    return run_dir.parent / "store"


def names(selection: Selection) -> list[tuple[str, str]]:
    return [(protein.name, protein.origin) for protein in selection.proteins]


def test_what_comes_with_foldline_covers_every_default_bin_and_is_deep() -> None:
    selection = select_proteins(None, (), GateConfig(), None)
    assert [(p.name, p.residues, p.rows) for p in selection.proteins] == [
        ("1whi_A", 122, 501),
        ("3osx_A", 190, 596),
        ("2ck3_B", 285, 821),
        ("5h73_A", 390, 343),
    ]
    assert [(b.shortest, b.longest, b.protein) for b in selection.bins] == [
        (1, 128, "1whi_A"),
        (129, 256, "3osx_A"),
        (257, 384, "2ck3_B"),
        (385, 512, "5h73_A"),
    ]


def test_the_stores_chains_come_first_validation_before_the_others(store: Path) -> None:
    assert names(select_proteins(store, ("1ajj_A",), SHORT, None)) == [("1ajj_A", "validation"), ("2hba_A", "store")]
    wide = replace(SHORT, bins=(64,), covered_bins=1)
    assert names(select_proteins(store, ("1ajj_A",), wide, None)) == [("1ajj_A", "validation")]
    assert names(select_proteins(store, (), wide, None)) == [("2hba_A", "store")]  # the longest of its bin


def test_an_empty_bin_is_filled_from_the_folder_and_then_from_what_comes_along(store: Path, tmp_path: Path) -> None:
    for file in DEMO.rglob("1ubq_A.*"):
        shutil.copy(file, tmp_path)
    config = replace(SHORT, bins=(40, 64, 80, 128), covered_bins=4, proteins=str(tmp_path))
    expected = [("1ajj_A", "validation"), ("2hba_A", "store"), ("1ubq_A", "given"), ("1whi_A", "bundled")]
    assert names(select_proteins(store, ("1ajj_A",), config, None)) == expected


def test_the_same_question_has_the_same_answer(store: Path) -> None:
    config = replace(SHORT, deep_rows=500)
    first, second = (names(select_proteins(store, (), config, None)) for _ in range(2))
    assert first == second


def test_a_deep_alignment_joins_where_no_chosen_one_is_deep(store: Path) -> None:
    assert names(select_proteins(store, (), replace(SHORT, deep_rows=326), None)) == [("1ajj_A", "store"), ("2hba_A", "store")]
    joined = select_proteins(store, (), replace(SHORT, deep_rows=327), None)
    assert names(joined) == [("1ajj_A", "store"), ("2hba_A", "store"), ("1whi_A", "bundled")]
    assert joined.proteins[-1].rows == 501
    with pytest.raises(FoldlineError, match=r"alignment of at least 5000 rows; give a folder that has one with --proteins"):
        select_proteins(store, (), replace(SHORT, deep_rows=5000), None)
    with pytest.raises(FoldlineError, match=r"at least 400 rows and at most 60 residues"):
        select_proteins(store, (), replace(SHORT, deep_rows=400), 60)


def test_too_few_covered_bins_are_an_error_that_names_them(store: Path) -> None:
    config = replace(SHORT, bins=(20, 40, 64), covered_bins=3)
    with pytest.raises(FoldlineError, match=r"no protein of 1 to 20 residues, and export.gate.covered_bins = 3; .* --proteins"):
        select_proteins(store, (), config, None)
    selection = select_proteins(store, (), replace(config, covered_bins=2), None)
    assert [(b.protein, b.note) for b in selection.bins] == [("", "no protein of this length"), ("1ajj_A", ""), ("2hba_A", "")]


def test_bins_beyond_the_engine_are_not_asked_for(store: Path) -> None:
    selection = select_proteins(store, (), replace(SHORT, bins=(40, 64, 128), covered_bins=3), 60)
    assert names(selection) == [("1ajj_A", "store"), ("2hba_A", "store")]
    assert [b.note for b in selection.bins] == ["", "", "beyond the engine's 60 residues"]
    with pytest.raises(FoldlineError, match="no protein of 41 to 64 residues"):  # the engine takes 50, the chain has 52
        select_proteins(store, (), replace(SHORT, bins=(40, 64, 128), covered_bins=3), 50)


def test_a_protein_without_an_experiment_is_no_test(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(next(DEMO.rglob("1ubq_A.a3m.gz")), tmp_path)
    with pytest.raises(FoldlineError, match=r"'1ubq_A' with its experimental structure; put 1ubq_A.cif or .pdb beside it"):
        select_proteins(None, (), replace(SHORT, bins=(80,), covered_bins=1, proteins=str(tmp_path)), None)
    with pytest.raises(FoldlineError, match="does not exist"):
        select_proteins(None, (), replace(SHORT, bins=(80,), covered_bins=1, proteins=str(tmp_path / "none")), None)
    metadata = gate_proteins.Store.metadata
    predicted = {"2hba_A": "distillation"}
    monkeypatch.setattr(
        gate_proteins.Store, "metadata", lambda self, name: replace(metadata(self, name), source=predicted.get(name, "experimental"))
    )
    assert names(select_proteins(store, (), replace(SHORT, bins=(64,), covered_bins=1), None)) == [("1ajj_A", "store")]


def test_the_sources_of_what_comes_along_are_listed() -> None:
    text = (BUNDLED / "SOURCES.md").read_text()
    for record in read_fold_input(BUNDLED):
        row = f"| {record.metadata.chain_id} | {len(record.sequence)} | {sum(len(msa.rows) for msa in record.msas)} |"
        assert row in text
