"""The embedded searches against HMMER's own programs on real sequences: the same hits, the same aligned rows."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from foldline.data_store.parse.a3m import parse_a3m
from foldline.data_store.search import jackhmmer, pyhmmer
from foldline.data_store.search.alignment import a3m_text, stockholm_text, without_repeats
from foldline.data_store.search.databases import Database
from foldline.data_store.search.options import Options
from foldline.data_store.search.parameters import HMMSEARCH, JACKHMMER, MAX_ROWS
from foldline.data_store.search.queries import Query
from foldline.errors import FoldlineError

from .search_cases import SEQRES, TOY, database, need, need_programs, queries, run


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Database, Path]:
    """19,400 real sequences, packed and plain."""
    need(TOY)
    folder = tmp_path_factory.mktemp("toy")
    plain = folder / "toy.fasta"
    plain.write_bytes(gzip.decompress(TOY.read_bytes()))
    return database(f"toy={TOY}", folder), plain


@pytest.mark.parametrize(("name", "iterations"), [("1ubq_A", 1), ("1ctf_A", 1), ("5pti_A", 1), ("133l_A", 1), ("2hhb_A", 1), ("5pti_A", 3)])
def test_pyhmmer_gives_jackhmmers_rows(name: str, iterations: int, toy: tuple[Database, Path], tmp_path: Path) -> None:
    need_programs("jackhmmer")
    (query,) = queries(name)
    parameters = {**JACKHMMER, "iterations": iterations}
    ours = pyhmmer.search_msa(query, toy[0], parameters, Options())
    theirs = jackhmmer.search_msa(query, database(f"plain={toy[1]}", tmp_path), parameters, Options(), tmp_path)
    assert len(ours) > 4
    assert ours == theirs


def test_the_parameters_are_af2s() -> None:
    """What AF2's published pipeline passes to jackhmmer; --incdomE is the program's own default."""
    published = {"-N": 1, "-E": 0.0001, "--incE": 0.0001, "--F1": 0.0005, "--F2": 5e-05, "--F3": 5e-07}
    assert {"-N": JACKHMMER["iterations"], "-E": JACKHMMER["E"]} | {f"--{n}": JACKHMMER[n] for n in ("incE", "F1", "F2", "F3")} == published
    assert (MAX_ROWS["uniref90"], MAX_ROWS["mgnify"]) == (10_000, 501)


def test_threads_blocks_and_memory_change_nothing(toy: tuple[Database, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (query,) = queries("1ctf_A")
    whole = pyhmmer.search_msa(query, toy[0], JACKHMMER, Options())
    monkeypatch.setattr(pyhmmer, "_MERGE", 3)
    monkeypatch.setattr(pyhmmer, "_BLOCK", 300_000)
    monkeypatch.setattr(pyhmmer, "_loaded", {})
    assert pyhmmer.search_msa(query, toy[0], JACKHMMER, Options(threads=2, memory=0.001)) == whole
    assert pyhmmer._loaded == {}, "more was kept than --memory allows"
    assert pyhmmer.search_msa(query, toy[0], JACKHMMER, Options(memory=1)) == whole
    assert len(pyhmmer._loaded[toy[0].identity.digest]) > 1
    assert pyhmmer.search_msa(query, toy[0], JACKHMMER, Options(threads=2)) == whole


def test_alignments_are_as_deep_as_the_published_ones(toy: tuple[Database, Path]) -> None:
    """The query first and whole; rows that the store's parser takes without a note; nearly every row that HMMER found before."""
    published = TOY.parents[1] / "demo_jackhmmer" / "1ctf_A.sto.gz"
    need(published)
    (query,) = queries("1ctf_A")
    rows = pyhmmer.search_msa(query, toy[0], JACKHMMER, Options())
    parsed = parse_a3m(a3m_text(rows), "rows")
    assert (parsed.query, parsed.notes) == (query.sequence, ())
    lines = gzip.decompress(published.read_bytes()).decode().splitlines()
    names = {line.split()[1] for line in lines if line.startswith("#=GS")}
    assert names == {row.header.split()[0] for row in rows[1:]}


@pytest.mark.parametrize("name", ["1ctf_A", "3tgi_E", "5h73_A", "T0866_A"])
def test_template_hits_are_hmmsearchs(name: str, toy: tuple[Database, Path], tmp_path: Path) -> None:
    need(SEQRES)
    need_programs("hmmbuild", "hmmsearch")
    (query,) = queries(name)
    rows = pyhmmer.search_msa(query, toy[0], JACKHMMER, Options())
    data, count = pyhmmer.search_templates(rows, query, database(f"pdb={SEQRES}", tmp_path), HMMSEARCH, Options())
    (tmp_path / "in.sto").write_bytes(stockholm_text(without_repeats(rows), query.name))
    (tmp_path / "pdb.fasta").write_bytes(gzip.decompress(SEQRES.read_bytes()))
    run("hmmbuild", "--hand", "--amino", tmp_path / "hmm", tmp_path / "in.sto")
    open_wide = [*("--F1", "0.1", "--F2", "0.1", "--F3", "0.1"), *("--incE", "100", "-E", "100", "--domE", "100", "--incdomE", "100")]
    run("hmmsearch", "--noali", "--cpu", "0", *open_wide, "-A", tmp_path / "out.sto", tmp_path / "hmm", tmp_path / "pdb.fasta")
    assert count > 40
    assert told(data.decode()) == told((tmp_path / "out.sto").read_text())


def told(stockholm: str) -> list[str]:
    """The lines, gap signs and the file's own name aside."""
    return [line.replace(".", "-") for line in stockholm.splitlines() if not line.startswith(("#=GF", "#=GR"))]


def test_no_hit_is_the_query_alone_and_an_empty_template_file(tmp_path: Path) -> None:
    (query,) = queries("1ubq_A")
    (tmp_path / "other.fasta").write_text(f">other\n{queries('5pti_A')[0].sequence}\n")
    other = database(f"other={tmp_path / 'other.fasta'}", tmp_path)
    rows = pyhmmer.search_msa(query, other, JACKHMMER, Options())
    assert [(row.header, row.columns.decode()) for row in rows] == [("1ubq_A", query.sequence)]
    strict = {**HMMSEARCH, "incE": 1e-9, "E": 1e-9}
    assert pyhmmer.search_templates(rows, query, other, strict, Options()) == (b"# STOCKHOLM 1.0\n//\n", 0)


def test_a_database_that_turns_bad_further_on_is_an_error(tmp_path: Path) -> None:
    """The check reads the beginning; what lies behind is the search's to report."""
    (query,) = queries("1ubq_A")
    path = tmp_path / "late.fasta"
    path.write_text(f">a\n{query.sequence}\n" * 2000 + ">bad\nMK{}LV\n")
    with pytest.raises(FoldlineError, match=r"database late: .* cannot be read to its end"):
        pyhmmer.search_msa(query, database(f"late={path}", tmp_path), JACKHMMER, Options())


def test_the_time_limit_stops_an_embedded_search(toy: tuple[Database, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyhmmer, "_loaded", {})
    with pytest.raises(FoldlineError, match="--timeout"):
        pyhmmer.search_msa(Query("q", "MQIFVKTLTGK", "q"), toy[0], JACKHMMER, Options(timeout=1e-6))
