"""Stockholm files: wrapped blocks, annotation, gaps of all kinds, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from foldline.data_store.parse.a3m import parse_a3m
from foldline.data_store.parse.stockholm import parse_stockholm, read_stockholm, stockholm_to_a3m
from foldline.errors import FoldlineError
from foldline.tests.data_store.store_cases import need_data

HEAD = "# STOCKHOLM 1.0\n"
WRAPPED = (
    HEAD
    + "#=GF ID x\n#=GS h DE text\nq   AC-DE.G\nh/1 A-wDEkg\n#=GR h/1 PP 9.99999\n#=GC RF xx.xxxx\n\nq   HIk\nh/1 -IK\n#=GC RF xxx\n//\n"
)


def parse(text: str) -> tuple[list[str], list[list[int]]]:
    parsed = parse_stockholm(text.encode(), "x.sto")
    return ["".join("ARNDCQEGHILKMFPSTWYVX-"[i] for i in row) for row in parsed.rows], parsed.deletions.tolist()


class TestRules:
    def test_blocks_are_joined_and_the_query_gives_the_columns(self) -> None:
        rows, deletions = parse(WRAPPED)
        assert rows == ["ACDEGHIK", "A-DEG-IK"]
        assert deletions == [[0] * 8, [0, 0, 1, 0, 1, 0, 0, 0]]
        assert stockholm_to_a3m(WRAPPED.encode(), "x").splitlines()[3] == "A-wDEkG-IK"

    def test_all_gap_signs_and_line_endings_read_alike(self) -> None:
        plain = parse(WRAPPED)
        for sign in ".-_~":
            assert parse(WRAPPED.replace("AC-DE.G", f"AC{sign}DE{sign}G").replace("-IK", f"{sign}IK")) == plain
        assert parse(WRAPPED.replace("\n", "\r\n")) == plain

    def test_a_file_is_read_as_the_a3m_of_its_query(self) -> None:
        ours, again = parse_stockholm(WRAPPED.encode(), "x"), parse_a3m(stockholm_to_a3m(WRAPPED.encode(), "x").encode(), "x")
        np.testing.assert_array_equal(ours.rows, again.rows)
        np.testing.assert_array_equal(ours.deletions, again.deletions)

    def test_an_end_that_is_missing_and_a_second_alignment_are_noted(self) -> None:
        assert "does not end in '//'" in parse_stockholm(WRAPPED.replace("//", "").encode(), "x.sto").notes[0]
        double = parse_stockholm((WRAPPED + HEAD + "q AA\n//\n").encode(), "x.sto")
        assert double.query == "ACDEGHIK"
        assert "2 alignments" in double.notes[0]

    def test_a_row_of_another_width_is_dropped_and_counted(self) -> None:
        cut = WRAPPED.replace("h/1 -IK\n", "h/1 -I\nother AAAAAAAAAA\nmore A\n").replace("q   AC", "r   ACWDEWG\ns   ACWDEWG\nq   AC")
        cut = cut.replace("r   AC", "q   ACWDEWG\nr   AC").replace("q   AC-DE.G\n", "").replace("q   HIk", "q   HIK\nr   HIK\ns   HIK")
        parsed = parse_stockholm(cut.encode(), "x.sto")
        assert parsed.names == ("q", "r", "s", "other")
        assert "2 of 6 rows of x.sto dropped" in parsed.notes[0]


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (">q\nACD\n", "x.sto does not begin with '# STOCKHOLM 1.0'"),
            (HEAD + "#=GF ID x\n//\n", "x.sto holds no sequence"),
            (HEAD + "q AC\nACDEF\n//\n", "x.sto, line 3: alignment lines are 'name row', this one has 1 words"),
            (HEAD + "q AC DE\n//\n", "this one has 3 words"),
            (HEAD + "q ----\nh ACDE\n//\n", "the query, is empty"),
            (HEAD + "q AC1E\nh ACDE\n//\n", "its query holds '1'"),
            (HEAD + "q ACDE\nh ACD\ni AC\nj A\n//\n", "3 of 4 rows do not fit the query"),
        ],
    )
    def test_message_names_file_and_rule(self, text: str, message: str) -> None:
        with pytest.raises(FoldlineError, match=r"x\.sto") as error:
            parse_stockholm(text.encode(), "x.sto")
        assert message in str(error.value)


class TestRealFiles:
    @pytest.mark.parametrize(
        ("name", "depth", "length", "query"),
        [
            ("nasty/M1.sto", 2, 1, "A"),
            ("nasty/fn3.sto", 98, 86, "SAPRNVQVRT"),
            ("nasty/globins4.sto", 4, 146, "VHLTPEEKSA"),
            ("nasty/uniprot_hits.sto", 21, 70, "MGSSHHHHHH"),
            ("nasty/example-single.sto.gz", 158, 350, "SVAAMGVYPY"),
            ("nasty/pkinase.sto.gz", 67, 271, "FHELEKIGSG"),
            ("nasty/Pkinase.sto.gz", 38, 248, "YHLKQVIGRG"),
            ("templates/P61626_lysozyme/uniref90_hits.sto.gz", 3858, 148, "MKALIVLGLV"),
        ],
    )
    def test_shape_and_letters(self, name: str, depth: int, length: int, query: str) -> None:
        path = need_data(name)
        parsed = read_stockholm(path)
        assert parsed.rows.shape == parsed.deletions.shape == (depth, length) == (len(parsed.names), length)
        assert parsed.query.startswith(query)
        assert parsed.notes == ()
        self.residues_are_kept(path, parsed.rows, parsed.deletions)

    def test_two_alignments_in_one_file(self) -> None:
        parsed = read_stockholm(need_data("nasty/example.sto.gz"))
        assert parsed.rows.shape == (105, 148)
        assert "holds 2 alignments: the first was read" in parsed.notes[0]

    def residues_are_kept(self, path: Path, rows: np.ndarray, deletions: np.ndarray) -> None:
        """Letters of each row in the file = residues in columns + insertions before them + insertions behind the last column."""
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        joined: dict[str, str] = {}
        for line in raw.decode(errors="replace").splitlines():
            if line.strip() and not line.startswith(("#", "//")):
                name, part = line.split()
                joined[name] = joined.get(name, "") + part
        last = max(i for i, letter in enumerate(next(iter(joined.values()))) if letter.isalpha())
        letters = [sum(letter.isalpha() for letter in row[: last + 1]) for row in joined.values()]
        assert ((rows != 21).sum(1) + deletions.astype(int).sum(1)).tolist() == letters


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.8, 0.99])
def test_a_file_cut_anywhere_is_a_message_or_a_note(cut: float, tmp_path: Path) -> None:
    data = need_data("nasty/fn3.sto").read_bytes()
    path = tmp_path / "cut.sto"
    path.write_bytes(data[: int(cut * len(data))])
    if cut < 0.5:  # inside the descriptions
        with pytest.raises(FoldlineError, match=r"cut\.sto"):
            read_stockholm(path)
    else:
        assert any("does not end" in note for note in read_stockholm(path).notes)
