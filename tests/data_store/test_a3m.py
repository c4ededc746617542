"""A3M: what is written in it is read from it, whatever the line ends, and what does not fit is counted or refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldline.data_store.parse.a3m import parse_a3m, query_only, read_a3m
from foldline.data_store.residues import RESTYPES_X_GAP
from foldline.errors import FoldlineError
from foldline.tests.data_store.store_cases import DEMO, need_data

DEMO_ALIGNMENTS = sorted(DEMO.rglob("*.a3m.gz"))


def a3m(rows: np.ndarray, deletions: np.ndarray, rng: np.random.Generator, width: int, end: str) -> bytes:
    """An alignment as text: ``deletions`` random lower-case letters before each column, lines of ``width``."""
    records = []
    for i, (row, counts) in enumerate(zip(rows, deletions, strict=True)):
        letters = "".join("".join(rng.choice(list("acdefgy"), n)) + RESTYPES_X_GAP[r] for r, n in zip(row, counts, strict=True))
        letters += "k" * int(rng.integers(3)) if i else ""  # what is inserted behind the last column counts nowhere
        records.append(f">row {i}" + end + "".join(letters[j : j + width] + end for j in range(0, len(letters), width)))
    return "".join(records).encode()


class TestRoundTrip:
    @settings(max_examples=60)
    @given(st.integers(1, 30), st.integers(1, 8), st.integers(1, 70), st.sampled_from(["\n", "\r\n"]), st.integers(0, 2**32 - 1))
    def test_text_of_any_width_and_line_end(self, length: int, depth: int, width: int, end: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        rows = rng.integers(0, 22, (depth, length)).astype(np.uint8)
        rows[0] = rng.integers(0, 21, length)
        deletions = (rng.integers(0, 5, (depth, length)) * (rng.random((depth, length)) < 0.2)).astype(np.uint8)
        deletions[0] = 0
        parsed = parse_a3m(a3m(rows, deletions, rng, width, end), "x.a3m")
        np.testing.assert_array_equal(parsed.rows, rows)
        np.testing.assert_array_equal(parsed.deletions, deletions)
        assert parsed.names == tuple(f"row {i}" for i in range(depth))
        assert parsed.notes == ()

    @pytest.mark.parametrize("path", DEMO_ALIGNMENTS, ids=lambda p: p.name)
    def test_real_alignments(self, path: Path) -> None:
        """Against a reading letter by letter."""
        parsed = read_a3m(path)
        for i, record in enumerate(gzip.decompress(path.read_bytes()).decode().split(">")[1:]):
            column = inserted = 0
            for letter in "".join(record.splitlines()[1:]):
                if letter.islower():
                    inserted += 1
                    continue
                assert RESTYPES_X_GAP[parsed.rows[i, column]] == {"B": "D", "Z": "E", "U": "C", "J": "X", "O": "X"}.get(letter, letter)
                assert parsed.deletions[i, column] == inserted
                column, inserted = column + 1, 0
        assert i + 1 == len(parsed.rows)


class TestLetters:
    def test_ambiguous_letters(self) -> None:
        parsed = parse_a3m(b">q\nAAAAAAA\n>r\nBZUJO*X\n", "x")
        assert "".join(RESTYPES_X_GAP[r] for r in parsed.rows[1]) == "DECXXXX"

    def test_deletions_are_clipped_at_255(self) -> None:
        assert parse_a3m(b">q\nAA\n>r\nA" + b"g" * 300 + b"A\n", "x").deletions.tolist() == [[0, 0], [0, 255]]

    def test_dots_are_padding_or_gaps_as_the_columns_say(self) -> None:
        parsed = parse_a3m(b">q\nACD\n>padding\nA.c.CD\n>gap\nA.D\n>both\n.CD*\n", "x")
        assert ["".join(RESTYPES_X_GAP[r] for r in row) for row in parsed.rows] == ["ACD", "ACD", "A-D", "-CD"]
        assert parsed.deletions[1].tolist() == [0, 1, 0]

    def test_annotation_and_comments_are_no_sequences(self) -> None:
        text = b"#3\t1\n>ss_pred PSIPRED\nCCC\n>ss_conf PSIPRED\n999\n>q\nACD\n>ss_dsspish protein\nAC-\n"
        assert parse_a3m(text, "x").names == ("q", "ss_dsspish protein")

    def test_a_lower_case_query_is_a_sequence(self) -> None:
        assert parse_a3m(b">q\nacd\n", "x").query == "ACD"


class TestRowsThatDoNotFit:
    def test_they_are_dropped_and_counted(self) -> None:
        parsed = parse_a3m(b">q\nACD\n>a\nAC\n>b\n\n>c\nA1D\n>d\nA-D\n>e\nAAA\n>f\nCCC\n", "x.a3m")
        assert parsed.names == ("q", "d", "e", "f")
        (note,) = parsed.notes
        assert (
            note == "3 of 7 rows of x.a3m dropped: 1 with another number of columns, 1 empty, 1 with characters that are no residue letters"
        )

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"", "does not begin with"),
            (b"ACD\n", "does not begin with"),
            (b">q\n", "is empty"),
            (b">q\nA-D\n", "gaps or insertions"),
            (b">q\nAcD\n", "gaps or insertions"),
            (b">q\nA1D\n", "holds '1'"),
            (b">ss_pred\nCCC\n", "no sequence"),
            (b">q\nACD\n>r\nA\n>s\nAC\n", "2 of 3 rows do not fit"),
        ],
    )
    def test_no_alignment(self, text: bytes, message: str) -> None:
        with pytest.raises(FoldlineError, match=message):
            parse_a3m(text, "x.a3m")


def test_the_query_alone() -> None:
    parsed = query_only("ACX")
    assert parsed.rows.tolist() == [[0, 4, 20]]
    assert parsed.deletions.tolist() == [[0, 0, 0]]


def test_hard_real_alignments() -> None:
    folder = need_data("nasty")
    wrapped = read_a3m(folder / "a3m_wrapped_lines_crlf.a3m")
    odd = read_a3m(folder / "a3m_odd_characters.a3m")
    assert wrapped.notes == ()
    assert odd.query == wrapped.query
    assert "1 empty" in odd.notes[0]
    assert "1 with another number of columns" in odd.notes[0]
    assert read_a3m(folder / "query.a3m").deletions.max() > 10
