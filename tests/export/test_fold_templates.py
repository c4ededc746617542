"""`foldline fold --templates`: hits beside the alignments become templates that change the answer."""

from __future__ import annotations

import shutil
from pathlib import Path

import gemmi
import numpy as np
import pytest

from foldline.cli import main
from foldline.data_store.fold_input import read_fold_input
from foldline.data_store.fold_templates import with_templates
from foldline.data_store.parse.structure import read_structure
from foldline.data_store.residues import decode_sequence
from foldline.errors import FoldlineError
from foldline.tests.export.conftest import DEMO

QUERY, TEMPLATE = "2hba_A", "1bxy_A"
COLUMNS = 30


def hhr(entry: str = TEMPLATE) -> str:
    """One hit: residues 10… of the template on residues 5… of the query."""
    (record,) = read_fold_input(next(DEMO.rglob(f"{QUERY}.a3m.gz")))
    letters = read_structure(DEMO / f"{TEMPLATE}.pdb.gz").chains["A"].sequence
    query, hit = record.sequence[4 : 4 + COLUMNS], letters[9 : 9 + COLUMNS]
    return (
        f"Query         {QUERY}\nMatch_columns {len(record.sequence)}\n\n No Hit\n\nNo 1\n>{entry} a template\n"
        f"Probab=90.0  E-value=1e-9  Score=50.0  Aligned_cols={COLUMNS}  Identities=10%  Similarity=0.1  Sum_probs=20.0\n\n"
        f"Q {QUERY}            5 {query} {4 + COLUMNS} ({len(record.sequence)})\n"
        f"T {entry}           10 {hit} {9 + COLUMNS} ({len(letters)})\n"
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    shutil.copy(next(DEMO.rglob(f"{QUERY}.a3m.gz")), folder)
    (folder / f"{QUERY}.hhr").write_text(hhr())
    return folder


@pytest.fixture
def entries(tmp_path: Path) -> Path:
    folder = tmp_path / "entries"
    folder.mkdir()
    shutil.copy(DEMO / f"{TEMPLATE}.pdb.gz", folder / "1bxy.pdb.gz")
    shutil.copy(next(p for p in DEMO.rglob(f"{QUERY}.*.gz") if ".a3m" not in p.name), folder / "2hba.pdb.gz")
    return folder


def positions(out: Path) -> np.ndarray:
    return np.array([a.pos.tolist() for r in gemmi.read_structure(str(out / QUERY / f"{QUERY}.cif"))[0]["A"] for a in r])


def test_the_answer_changes_and_says_what_was_used(
    source: Path, entries: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fold = ["fold", str(source), "--bundle", str(exported), "--recycles", "0", "--out"]
    assert main([*fold, str(tmp_path / "without")]) == 0
    assert main([*fold, str(tmp_path / "with"), "--templates", str(entries)]) == 0
    assert f"{QUERY}: 1 templates of 1 hits (1bxy_A)" in capsys.readouterr().out
    assert np.abs(positions(tmp_path / "with") - positions(tmp_path / "without")).max() > 1e-2


@pytest.mark.parametrize("place", [f"{QUERY}_pdb_hits.hhr", f"{QUERY}/pdb_hits.hhr"])
def test_where_hits_may_lie(place: str, source: Path, entries: Path) -> None:
    target = source / place
    target.parent.mkdir(exist_ok=True)
    (source / f"{QUERY}.hhr").rename(target)
    records = read_fold_input(source / f"{QUERY}.a3m.gz")
    (record,), _ = with_templates(records, source / f"{QUERY}.a3m.gz", entries)
    assert record.templates is not None
    letters = read_structure(DEMO / f"{TEMPLATE}.pdb.gz").chains["A"].sequence
    assert decode_sequence(record.templates.aatype[0]).strip("-") == letters[9 : 9 + COLUMNS]


def test_the_proteins_own_entry_is_no_template(source: Path, entries: Path) -> None:
    (source / f"{QUERY}.hhr").write_text(hhr(QUERY))
    (record,), notes = with_templates(read_fold_input(source), source, entries)
    assert record.templates is not None
    assert len(record.templates.names) == 0
    assert "0 templates of 1 hits (template 2hba_A: is the query's own entry)" in notes[0]


def test_a_date_before_all_structures(source: Path, entries: Path) -> None:
    (record,), _ = with_templates(read_fold_input(source), source, entries, "1970-01-01")
    assert record.templates is not None
    assert len(record.templates.names) == 0


def test_bad_input(source: Path, entries: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fold = ["fold", str(source), "--bundle", str(exported), "--out", str(tmp_path / "out")]
    for more, message in (
        (["--max-template-date", "2020-01-01"], "add --templates"),
        (["--templates", str(entries), "--max-template-date", "2020"], "give an ISO date"),
        (["--templates", str(tmp_path / "none")], "is not a folder"),
    ):
        assert main([*fold, *more]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (source / f"{QUERY}.hhr").unlink()
    with pytest.raises(FoldlineError, match=r"holds no template hits; give NAME\.hhr"):
        with_templates(read_fold_input(source), source, entries)
