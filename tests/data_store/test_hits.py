"""Template hits: HHR and hmmsearch files as they are in the wild, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from foldline.data_store.parse.fasta import parse_fasta, read_fasta
from foldline.data_store.parse.hhr import parse_hhr, read_hhr
from foldline.data_store.parse.hmmsearch import parse_hmmsearch, read_hmmsearch
from foldline.data_store.templates.hit import TemplateHit
from foldline.errors import FoldlineError
from foldline.tests.data_store.store_cases import need_data
from foldline.tests.reference.folder import BUNDLED

HHR = (BUNDLED / "features" / "inputs" / "pdb70_hits.hhr").read_text()


def consistent(hit: TemplateHit) -> None:
    assert len(hit.query) == len(hit.hit_sequence) == len(hit.indices_query) == len(hit.indices_hit)
    for row, numbers in ((hit.query, hit.indices_query), (hit.hit_sequence, hit.indices_hit)):
        assert [number < 0 for number in numbers] == [letter == "-" for letter in row]
        inside = [number for number in numbers if number >= 0]
        assert inside == list(range(inside[0], inside[0] + len(inside)))
    assert len(hit.pairs()) == hit.aligned_cols
    for place, letter in hit.pairs():
        assert hit.letters[letter] == hit.hit_sequence[hit.indices_query.index(place)]


class TestHhr:
    @pytest.mark.parametrize(
        ("name", "count", "first", "query"),
        [
            ("nasty/allx.hhr", 10, "1klr_A", "X"),
            ("nasty/7rbx_A_hhsearch_trunc.hhr", 1, "7ebe_A", ""),
            ("nasty/4p79_hhsearch_server_NOssm.hhr", 8, "4p79_A", "GSEFMSVAVETFGFFMSAL"),
            ("templates/hhr_misc/2uvo_hhblits.hhr", 32, "2uvo_A", ""),
            ("templates/hhr_misc/2uvo_hhsearch.hhr", 32, "2uvo_A", ""),
            ("templates/hhsuite_query/query.hhr.gz", 124, "UP20|TITVEVABA|104|471", ""),
            ("templates/1a00_A/pdb70_hits.hhr.gz", 267, "1faw_A", "VLSPADKTN"),
            ("templates/1a2y_B/pdb70_hits.hhr.gz", 500, "6xux_A", ""),
            ("templates/1a3p_A/pdb70_hits.hhr.gz", 432, "5e8d_A", ""),
        ],
    )
    def test_real_files(self, name: str, count: int, first: str, query: str) -> None:
        hits = read_hhr(need_data(name))
        assert [hit.index for hit in hits] == list(range(1, count + 1))
        assert hits[0].label == first
        assert hits[0].query.replace("-", "").startswith(query)
        for hit in hits:
            consistent(hit)

    def test_a_name_without_chain_and_one_that_is_no_entry(self) -> None:
        (hit,) = (hit for hit in read_hhr(need_data("templates/hhr_misc/2uvo_hhblits.hhr")) if hit.index == 2)
        assert (hit.pdb_id, hit.chain) == ("2wga", "")
        assert read_hhr(need_data("templates/hhsuite_query/query.hhr.gz"))[0].pdb_id == ""

    def test_no_hits_is_no_error(self) -> None:
        assert parse_hhr(HHR.split("No 1\n")[0], "x.hhr") == ()

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("Aligned_cols=22", "Aligned_cols=29", "x.hhr, line 21: hit 1 shows 22 aligned columns and announces 29"),
            ("Aligned_cols=22", "Aligned_cols=many", "hit 1 has no line 'Probab="),
            ("Probab=7.51", "", "shows"),
            ("T 1HF9_B           10 ISHHAKE", "T 1HF9_B           10 ISHHA", "hit 1 has a row numbered 10 to 31 with 20 letters"),
            (">1HF9_B ATP", "1HF9_B ATP", "hit 1 has no '>' line"),
            ("Query  ", "# nothing ", ""),
        ],
    )
    def test_damage_names_the_hit_and_its_line(self, old: str, new: str, message: str) -> None:
        damaged = HHR.replace(old, new, 1)
        assert damaged != HHR
        if message == "shows" or not message:  # harmless: the first number is not read, and other header lines tell the format
            assert len(parse_hhr(damaged, "x.hhr")) == 10
            return
        with pytest.raises(FoldlineError) as error:
            parse_hhr(damaged, "x.hhr")
        assert message in str(error.value)
        assert "cut off or damaged; search again" in str(error.value)

    def test_another_format_is_refused(self) -> None:
        with pytest.raises(FoldlineError, match=r"x\.hhr is no HHR file"):
            parse_hhr("# STOCKHOLM 1.0\nq AC\n//\n", "x.hhr")

    def test_a_file_cut_at_any_line_gives_its_first_hits_or_names_the_broken_one(self) -> None:
        lines, whole = HHR.splitlines(), parse_hhr(HHR, "x.hhr")
        refused = 0
        for end in range(12, len(lines)):
            try:
                hits = parse_hhr("\n".join(lines[:end]), "x.hhr")
            except FoldlineError as error:
                refused += "x.hhr, line" in str(error)
            else:
                assert hits == whole[: len(hits)]
        assert refused > 3 * len(whole)


class TestHmmsearch:
    QUERY = "ACDEFGHIKL"
    STO = (
        "# STOCKHOLM 1.0\n#=GS 1abc_A/12-18 DE [subseq from] mol:protein length:30  NAME\n#=GS 2abc_R/1-4 DE mol:na length:4\n"
        "1abc_A/12-18 AC..D-wFG----\n2abc_R/1-4   AC..G-.U----\n#=GC RF      xx..xx.xxxxxx\n//\n"
    )

    def test_match_columns_are_the_query(self) -> None:
        (hit,) = parse_hmmsearch(self.STO.replace("12-18", "12-17").encode(), self.QUERY, "x.sto")
        assert (hit.pdb_id, hit.chain, hit.aligned_cols, hit.sum_probs) == ("1abc", "A", 5, None)
        assert (hit.query, hit.hit_sequence) == ("ACDE-FGHIKL", "ACD-WFG----")
        assert hit.pairs().tolist() == [[0, 0], [1, 1], [2, 2], [4, 4], [5, 5]]
        consistent(hit)
        assert min(number for number in hit.indices_hit if number >= 0) == 11

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("x", "x", "has 6 letters and not 7"),
            ("1abc_A/12-18 AC", "1abc_A/12-18 C", "has 9 match columns and the query has 10"),
            ("1abc_A/12-18", "1abc_A", "is named '1abc_A', not PDBID_CHAIN/first-last"),
        ],
    )
    def test_refused(self, old: str, new: str, message: str) -> None:
        with pytest.raises(FoldlineError, match=r"x\.sto: row 1") as error:
            parse_hmmsearch(self.STO.replace(old, new).encode(), self.QUERY, "x.sto")
        assert message in str(error.value)

    def test_the_hits_of_lysozyme(self) -> None:
        folder = need_data("templates/P61626_lysozyme")
        ((_, query),) = read_fasta(folder / "P61626.fasta")
        hits = read_hmmsearch(folder / "pdb_hits.sto.gz", query)
        assert len(hits) == 1855
        assert hits[2].name.startswith("3lhm_A [subseq from] mol:protein length:130  HUMAN LYSOZYME")
        assert all(hit.pdb_id and hit.chain for hit in hits)
        for hit in hits[::37]:
            consistent(hit)
        text = gzip.decompress((folder / "pdb_hits.sto.gz").read_bytes()).decode()
        rows = dict(line.split() for line in text.splitlines() if line.strip() and line[0] not in "#/")
        assert [hit.letters for hit in hits] == [row.replace("-", "").replace(".", "").upper() for row in rows.values()]

    def test_a3m_of_the_same_hits_reads_alike(self) -> None:
        folder = need_data("templates/P61626_lysozyme")
        ((_, query),) = read_fasta(folder / "P61626.fasta")
        sto = gzip.decompress((folder / "pdb_hits.sto.gz").read_bytes()).decode()
        rows = [line.split() for line in sto.splitlines() if line.strip() and line[0] not in "#/"]
        a3m = f">query\n{query}\n" + "".join(f">{name}\n{row.replace('.', '')}\n" for name, row in rows)
        ours, again = parse_hmmsearch(sto.encode(), query, "x.sto"), parse_hmmsearch(a3m.encode(), query, "x.a3m")
        assert [(hit.label, hit.hit_sequence, hit.indices_hit) for hit in again] == [(h.label, h.hit_sequence, h.indices_hit) for h in ours]


class TestFasta:
    def test_names_capital_letters_and_end_marks(self, tmp_path: Path) -> None:
        (tmp_path / "x.fasta.gz").write_bytes(gzip.compress(b"# note\n>a first\r\nacd\r\nEF*\r\n>b\nXUZ\n"))
        assert read_fasta(tmp_path / "x.fasta.gz") == [("a first", "ACDEF"), ("b", "XUZ")]

    @pytest.mark.parametrize(
        ("text", "message"),
        [("ACD", "does not begin with a '>'"), (">a\n>b\nAC\n", "'a' is empty"), (">a\nA-C\n", "holds '-'"), (">a\nA1\n", "holds '1'")],
    )
    def test_refused(self, text: str, message: str) -> None:
        with pytest.raises(FoldlineError, match=r"x\.fasta") as error:
            parse_fasta(text.encode(), "x.fasta")
        assert message in str(error.value)
