"""Queries and databases of a search are judged before any work: the sound are taken, the rest named with the way out."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldline.data_store.search.alignment import Row, a3m_text, digital_msa, read_rows, rows_of_msa, stockholm_text, without_repeats
from foldline.data_store.search.databases import check_databases
from foldline.data_store.search.queries import Query, read_queries, shard
from foldline.errors import FoldlineError

UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
GOOD = f">one\n{UBIQUITIN}\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (">bad\nACD-EF\n", "'-' is no residue"),
        (">bad\nACD3EF\n", "'3' is no residue"),
        (">bad\n", "no residues"),
        (">bad\n*\n", "no residues"),
        (">\nACDEF\n", "no usable name"),
        (">../up\nACDEF\n", "no usable name"),
        (f">one other\n{UBIQUITIN}\n", "used before"),
        (">bad\n" + "ACGT" * 10 + "\n", "nucleotide"),
        (">bad\nXXXX\n", "X throughout"),
        (">bad\n" + "A" * 100_001 + "\n", "100001 residues"),
    ],
)
def test_a_bad_query_is_named_and_costs_no_other(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "query.fasta"
    path.write_text(GOOD + text + ">two\nMKVLAAGHWYRND*\n")
    queries, rejected = read_queries(path)
    assert [query.name for query in queries] == ["one", "two"]
    assert queries[1].sequence == "MKVLAAGHWYRND"
    assert len(rejected) == 1
    assert reason in rejected[0].reason


def test_names_are_safe_folders_and_headers_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "query.fasta.gz"
    path.write_bytes(gzip.compress(f">sp|P0CG48/1-76 Polyubiquitin-C\r\n{UBIQUITIN.lower()}\r\n".encode()))
    ((query,), _) = read_queries(path)
    assert query == Query("sp_P0CG48_1-76", UBIQUITIN, "sp|P0CG48/1-76 Polyubiquitin-C")


@given(st.integers(0, 40), st.integers(1, 9))
def test_shards_are_disjoint_and_complete(count: int, parts: int) -> None:
    queries = [Query(str(number), "MK", "") for number in range(count)]
    shards = [shard(queries, f"{part}/{parts}") for part in range(parts)]
    assert sorted((q.name for s in shards for q in s), key=int) == [q.name for q in queries]
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("part", ["3/3", "1", "-1/3", "a/b", "1/0"])
def test_a_wrong_shard_is_an_error(part: str) -> None:
    with pytest.raises(FoldlineError, match="--shard"):
        shard([], part)


def broken_databases(folder: Path) -> dict[str, tuple[str, str]]:
    """Texts of --db and what the error must say."""
    (folder / "empty.fasta").touch()
    (folder / "text.fasta").write_text("no sequences here\n")
    (folder / "dna.fasta").write_text(">a\n" + "ACGT" * 100 + "\n")
    (folder / "blank.fasta").write_text(">a\n>b\n")
    (folder / "binary.fasta").write_bytes(b">a\n" + bytes(range(256)))
    packed = gzip.compress((GOOD * 2000).encode())
    (folder / "cut.fasta.gz").write_bytes(packed[: len(packed) // 2])
    (folder / "flipped.fasta.gz").write_bytes(packed[:-6] + bytes([packed[-6] ^ 255]) + packed[-5:])
    for name, kind in (("nucleotides", 1), ("results", 5)):
        (folder / f"{name}.dbtype").write_bytes(kind.to_bytes(4, "little"))
    (folder / "torn.dbtype").write_bytes(bytes(4))
    (folder / "half_a3m.ffdata").write_bytes(b"x")
    for part in ("a3m", "cs219"):
        (folder / f"short_{part}.ffdata").write_bytes(b"x")
        (folder / f"short_{part}.ffindex").write_text("a\t0\t100\n")
    return {
        "missing": ("missing.fasta", "there is no FASTA file"),
        "empty": ("empty.fasta", "is empty"),
        "text": ("text.fasta", "no FASTA"),
        "dna": ("dna.fasta", "nucleotides"),
        "blank": ("blank.fasta", "no residues"),
        "binary": ("binary.fasta", "no protein FASTA"),
        "cut": ("cut.fasta.gz", "cut off or damaged gzip"),
        "flipped": ("flipped.fasta.gz", "cut off or damaged gzip"),
        "folder": ("", "is a folder"),
        "nucleotides": ("nucleotides", "holds nucleotides"),
        "results": ("results", "holds type 5"),
        "torn": ("torn", "incomplete or empty"),
        "half": ("half", "missing or empty"),
        "short": ("short", "points behind the end"),
    }


def test_every_broken_database_is_named_at_once(tmp_path: Path) -> None:
    cases = broken_databases(tmp_path)
    (tmp_path / "good.fasta").write_text(GOOD)
    texts = [f"{name}={tmp_path / path}" for name, (path, _) in cases.items()]
    with pytest.raises(FoldlineError) as caught:
        check_databases([f"good={tmp_path / 'good.fasta'}", *texts, "noequals"], tmp_path / "cache.json")
    problems = str(caught.value).split("; database ")
    assert len(problems) == len(cases)
    for problem, (name, (_, reason)) in zip(problems, cases.items(), strict=True):
        assert f"{name}:" in problem
        assert reason in problem
    assert "'noequals' is not name=path" in problems[-1]


def test_the_same_content_is_the_same_database_wherever_it_lies(tmp_path: Path) -> None:
    """The hash follows the content; the kept hash is used only while size and time are unchanged."""
    first, second, cache = tmp_path / "a.fasta", tmp_path / "b.fasta", tmp_path / "cache.json"
    first.write_text(GOOD)
    second.write_text(GOOD)
    a, b = check_databases([f"a={first}", f"b={second}"], cache)
    assert a.identity.digest == b.identity.digest
    assert set(json.loads(cache.read_text())) == {str(first), str(second)}
    second.write_text(GOOD.replace("MQIF", "MQIW"))
    os.utime(second, ns=(0, 0))
    (changed,) = check_databases([f"b={second}"], cache)
    assert changed.identity.digest != a.identity.digest
    cache.write_text("{")
    assert check_databases([f"a={first}"], cache)[0].identity.digest == a.identity.digest


rows = st.integers(1, 12).flatmap(
    lambda length: st.lists(
        st.lists(
            st.tuples(st.text("acdefghiklmnpqrstvwy", max_size=3), st.sampled_from("ACDEFGHIKLMNPQRSTVWY-")),
            min_size=length,
            max_size=length,
        ).flatmap(lambda parts: st.text("acdef", max_size=2).map(lambda end: "".join(a + b for a, b in parts) + end)),
        min_size=1,
        max_size=6,
    ).map(lambda lines: ["ACDEFGHIKLMN"[:length], *lines])
)


@given(rows)
def test_a_profile_has_the_querys_columns_and_loses_no_residue(lines: list[str]) -> None:
    """A3M -> Stockholm -> A3M is the identity, gaps of insertions aside."""
    alignment = [Row(str(number), line.encode()) for number, line in enumerate(lines)]
    if any(not line.replace("-", "") for line in lines):
        return  # HMMER takes no row without residues
    assert rows_of_msa(digital_msa(stockholm_text(alignment, "x")).textize(), "0") == alignment
    assert read_rows(a3m_text(alignment), "x") == alignment


def test_repeats_are_judged_in_the_querys_columns() -> None:
    alignment = [Row("q", b"ACD"), Row("a", b"AaaCD"), Row("b", b"A-D"), Row("c", b"A-cD")]
    assert [row.header for row in without_repeats(alignment)] == ["q", "b"]
