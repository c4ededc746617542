"""Ingest: every entry of a folder ends as stored, repaired or quarantined with its reason; a mistake costs one message."""

from __future__ import annotations

import csv
import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldline.cli import main
from foldline.data_store.fold_input import read_fold_input
from foldline.data_store.ingest import IngestReport, ingest
from foldline.data_store.ingest.outcome import Outcome
from foldline.data_store.match import match_query
from foldline.data_store.parse.a3m import read_a3m
from foldline.data_store.parse.structure import ParsedChain, read_structure
from foldline.data_store.residues import ATOM37_MASK, RESTYPES, encode_sequence
from foldline.data_store.store import Store
from foldline.errors import FoldlineError
from foldline.tests.data_store.store_cases import DEMO, assert_same, need_data

UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with ubiquitin and one more demo protein, to be spoilt."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("1ubq_A.cif.gz", "1ubq_A.a3m.gz", "2hba_A.pdb.gz", "2hba_A.a3m.gz"):
        shutil.copy(DEMO / name, folder / name)
    return folder


def run(source: Path, **_: object) -> tuple[IngestReport, Store]:
    store = source.parent / "store"
    return ingest(source, store), Store.open(store)


def reason(outcomes: tuple[Outcome, ...], name: str) -> str:
    (found,) = [outcome.reason for outcome in outcomes if outcome.name == name]
    return found


class TestDemo:
    def test_all_is_stored_sub_folders_too(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["ingest", str(DEMO), "--store", str(tmp_path / "store")]) == 0
        assert "8 chains stored (0 of them repaired), 0 entries quarantined" in capsys.readouterr().out
        store = Store.open(tmp_path / "store")
        assert len(store) == len(list(DEMO.rglob("*.a3m.gz"))) == 8
        (held_out,) = read_fold_input(DEMO / "held_out")
        assert held_out.metadata.chain_id in store.chain_ids
        clusters = set()
        for chain_id in store.chain_ids:
            record = store.record(chain_id)
            clusters.add(record.metadata.cluster_id)
            assert (record.mask == ATOM37_MASK[record.aatype]).all()
            assert len(record.msas[0].rows) >= 50
        assert len(clusters) == 8
        assert store.metadata("1ubq_A").resolution == 1.8

    def test_two_ingests_give_one_content(self, tmp_path: Path) -> None:
        ingest(DEMO, tmp_path / "a")
        ingest(DEMO, tmp_path / "b")
        assert Store.open(tmp_path / "a").content_hash == Store.open(tmp_path / "b").content_hash

    def test_ls_show_and_verify(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        store = str(tmp_path / "store")
        main(["ingest", str(DEMO), "--store", store])
        capsys.readouterr()
        assert main(["store", "ls", store]) == 0
        assert "STRUCTURE OF UBIQUITIN REFINED AT 1.8 ANGSTROMS RESOLUTION" in capsys.readouterr().out
        assert main(["store", "show", store, "1ubq_A"]) == 0
        assert UBIQUITIN in capsys.readouterr().out
        assert main(["store", "verify", store]) == 0
        (path,) = (tmp_path / "store" / "parts").iterdir()
        path.write_bytes(path.read_bytes()[::-1])
        assert main(["store", "verify", store]) == 1
        assert f"damaged: parts/{path.name}: its content differs" in capsys.readouterr().err
        assert main(["store", "show", store, "9xyz_Q"]) == 2
        assert main(["store", "ls", str(tmp_path)]) == 2


class TestNames:
    def test_a_file_without_a_chain_gives_all_its_chains(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.mkdir()
        shutil.copy(need_data("nasty/4hhb.cif.gz"), source / "4hhb.cif.gz")
        report, store = run(source)
        assert store.chain_ids == ("4hhb_A", "4hhb_B", "4hhb_C", "4hhb_D")
        assert store.metadata("4hhb_C").pdb_id == "4hhb"
        assert all("query alone" in outcome.reason for outcome in report.repaired)

    def test_one_structure_file_serves_the_alignments_of_its_chains(self, source: Path) -> None:
        (source / "1ubq_A.cif.gz").rename(source / "1ubq.cif.gz")
        report, store = run(source)
        assert [outcome.name for outcome in report.stored] == ["1ubq_A", "2hba_A"]
        assert len(store.record("1ubq_A").msas[0].rows) == 69

    def test_a_chain_that_the_file_does_not_have(self, source: Path) -> None:
        for kind in ("cif.gz", "a3m.gz"):
            (source / f"1ubq_A.{kind}").rename(source / f"1ubq_B.{kind}")
        report, _ = run(source)
        assert "has no protein chain 'B': its protein chains are A" in reason(report.quarantined, "1ubq_B")
        assert len(report.quarantined) == 1

    def test_two_files_of_one_name(self, source: Path) -> None:
        shutil.copy(source / "2hba_A.pdb.gz", source / "2hba_A.ent.gz")
        report, store = run(source)
        assert len(store) == 2
        assert "stands for '2hba_A' already" in report.quarantined[0].reason

    def test_other_files_are_left_alone_or_named(self, source: Path) -> None:
        (source / "README.md").write_text("hello")
        (source / "1ubq_A.aln").write_text("CLUSTAL\n")
        (source / "lone.a3m").write_text(">q\nACD\n")
        report, _ = run(source)
        assert {outcome.name for outcome in report.quarantined} == {"1ubq_A.aln", "lone.a3m"}
        assert reason(report.quarantined, "lone.a3m") == "no structure beside it"


class TestOneBadEntry:
    """The other entry is stored all the same."""

    def test_a_cut_structure(self, source: Path) -> None:
        text = gzip.decompress((source / "1ubq_A.cif.gz").read_bytes())
        (source / "1ubq_A.cif.gz").write_bytes(gzip.compress(text[: text.index(b"ATOM   300") + 31]))
        self.quarantined(source, "not a valid mmCIF file")

    def test_gzip_by_name_only(self, source: Path) -> None:
        (source / "1ubq_A.a3m.gz").write_bytes(gzip.decompress((source / "1ubq_A.a3m.gz").read_bytes()))
        self.quarantined(source, "1ubq_A.a3m.gz is named .gz but is not gzip")

    def test_an_alignment_of_another_protein(self, source: Path) -> None:
        shutil.copy(source / "2hba_A.a3m.gz", source / "1ubq_A.a3m.gz")
        self.quarantined(source, r"query (52 residues) is not the sequence of chain A (76 residues)")

    def test_an_empty_alignment(self, source: Path) -> None:
        (source / "1ubq_A.a3m.gz").unlink()
        (source / "1ubq_A.a3m").write_text("")
        self.quarantined(source, "1ubq_A.a3m is empty")

    def test_a_calpha_trace(self, source: Path) -> None:
        (source / "1ubq_A.cif.gz").unlink()
        lines = gzip.decompress((source / "2hba_A.pdb.gz").read_bytes()).decode().splitlines()
        (source / "1ubq_A.pdb").write_text("\n".join(line for line in lines if line[12:16] == " CA "))
        (source / "1ubq_A.a3m.gz").unlink()
        self.quarantined(source, "no residue of chain A has N, CA and C")

    def quarantined(self, source: Path, message: str) -> None:
        report, store = run(source)
        assert store.chain_ids == ("2hba_A",)
        assert message in reason(report.quarantined, "1ubq_A")
        assert len(report.quarantined) == 1


class TestRepairs:
    def test_no_alignment(self, source: Path) -> None:
        (source / "1ubq_A.a3m.gz").unlink()
        report, store = run(source)
        assert "no alignment beside it" in reason(report.repaired, "1ubq_A")
        assert store.record("1ubq_A").msas[0].rows.tolist() == [encode_sequence(UBIQUITIN).tolist()]

    def test_rows_that_do_not_fit(self, source: Path) -> None:
        with gzip.open(source / "1ubq_A.a3m.gz", "at") as file:
            file.write(">short\nACD\n")
        report, store = run(source)
        assert "1 of 70 rows" in reason(report.repaired, "1ubq_A")
        assert len(store.record("1ubq_A").msas[0].rows) == 69

    def test_a_query_with_a_tag_and_a_mutation(self, source: Path) -> None:
        (source / "1ubq_A.a3m.gz").unlink()
        (source / "1ubq_A.a3m").write_text(f">q\nGSHM{UBIQUITIN[:10]}F{UBIQUITIN[11:74]}\n")
        original = read_structure(source / "1ubq_A.cif.gz").chains["A"]
        report, store = run(source)
        assert "73 of 74 aligned observed residues identical, 2 left out" in reason(report.repaired, "1ubq_A")
        record = store.record("1ubq_A")
        assert record.sequence.startswith("GSHMMQIFVKTLTGF")
        assert not record.mask[:4].any()
        np.testing.assert_array_equal(record.positions[4:14], original.positions[:10])
        np.testing.assert_array_equal(record.positions[15:], original.positions[11:74])
        assert record.mask[14].sum() == 5  # lysine 11 as phenylalanine: backbone and CB


class TestMatch:
    @settings(max_examples=40)
    @given(st.integers(0, 2**32 - 1), st.integers(0, 8), st.integers(0, 8), st.integers(0, 3))
    def test_what_stays_keeps_its_coordinates(self, seed: int, head: int, tail: int, mutations: int) -> None:
        rng = np.random.default_rng(seed)
        chain = _noise_chain(rng, 60)
        letters = list(chain.sequence[head : 60 - tail])
        places = rng.choice(np.arange(5, len(letters) - 5), mutations, replace=False)
        for place in places:
            letters[place] = RESTYPES[(RESTYPES.index(letters[place]) + 7) % 20]
        mapped = match_query(chain, "".join(letters))
        assert mapped.sequence == "".join(letters)
        same = np.setdiff1d(np.arange(len(letters)), places)
        np.testing.assert_array_equal(mapped.positions[same], chain.positions[same + head])
        np.testing.assert_array_equal(mapped.mask[same], chain.mask[same + head])
        assert (mapped.mask <= ATOM37_MASK[encode_sequence(mapped.sequence)]).all()
        assert bool(mapped.notes) == (mapped.sequence != chain.sequence)

    @settings(max_examples=40)
    @given(st.integers(0, 2**32 - 1), st.integers(20, 120))
    def test_an_unrelated_query_is_refused(self, seed: int, length: int) -> None:
        rng = np.random.default_rng(seed)
        with pytest.raises(FoldlineError, match="is not the sequence of chain A"):
            match_query(_noise_chain(rng, 60), "".join(rng.choice(RESTYPES, length)))

    def test_a_short_piece_is_no_match(self) -> None:
        chain = _noise_chain(np.random.default_rng(1), 60)
        with pytest.raises(FoldlineError, match="is not the sequence"):
            match_query(chain, chain.sequence[:3] + "W" * 57)


def _noise_chain(rng: np.random.Generator, length: int) -> ParsedChain:
    sequence = "".join(rng.choice(RESTYPES, length))
    mask = ATOM37_MASK[encode_sequence(sequence)].astype(np.uint8)
    return ParsedChain("A", sequence, rng.normal(size=(length, 37, 3)).astype(np.float32) * mask[..., None], mask)


class TestMetadataTable:
    def test_it_fills_in_what_files_do_not_say(self, source: Path) -> None:
        (source / "metadata.tsv").write_text(
            "id\tcluster_id\tweight\trelease_date\tresolution\n2hba_A\tc7\t0.5\t2006-07-25\t\n1ubq_A\tc1\t\t\t9.5\n9zzz_Z\t\t\t\t\n"
        )
        report, store = run(source)
        first, second = store.metadata("2hba_A"), store.metadata("1ubq_A")
        assert (first.cluster_id, first.weight, first.release_date, first.resolution) == ("c7", 0.5, "2006-07-25", 0.0)
        assert (second.cluster_id, second.weight, second.release_date, second.resolution) == ("c1", 1.0, "1987-04-16", 9.5)
        assert "there is no such entry" in reason(report.quarantined, "9zzz_Z")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("id\tcluster\n1ubq_A\tx\n", "unknown column 'cluster'; did you mean 'cluster_id'"),
            ("name\tweight\n1ubq_A\t1\n", "no column 'id'"),
            ("id\tweight\n1ubq_A\theavy\n", "weight is 'heavy', not a number"),
            ("id\tweight\n1ubq_A\t-1\n", "not a number of zero or more"),
            ("id\trelease_date\n1ubq_A\t2004\n", "not a date like"),
            ("id\tsource\n1ubq_A\tdreams\n", "valid: experimental, distillation"),
            ("id\tweight\n1ubq_A\t1\n1ubq_A\t2\n", "given twice"),
            ("id\tweight\n1ubq_A\t1\t2\n", "more cells"),
        ],
    )
    def test_a_mistake_in_it(self, source: Path, text: str, message: str) -> None:
        (source / "metadata.tsv").write_text(text)
        with pytest.raises(FoldlineError, match=message):
            ingest(source, source.parent / "store")
        assert [p.name for p in source.parent.iterdir()] == ["source"]


class TestUserMistakes:
    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda s: shutil.rmtree(s), "is not a folder"),
            (lambda s: [p.unlink() for p in s.iterdir()], "holds no structure"),
            (lambda s: [p.unlink() for p in s.glob("*.pdb.gz")] + [p.unlink() for p in s.glob("*.cif.gz")], "holds no structure"),
            (lambda s: [p.write_bytes(b"x") for p in s.iterdir()], "has no entry that can be stored (1ubq_A: 1ubq_A.cif.gz is named .gz"),
            (lambda s: (s.parent / "store").mkdir(), "already exists"),
        ],
    )
    def test_exit_code_two_one_message_nothing_left(self, source: Path, capsys: pytest.CaptureFixture[str], spoil, message: str) -> None:
        spoil(source)
        before = sorted(source.parent.rglob("*"))
        assert main(["ingest", str(source), "--store", str(source.parent / "store")]) == 2
        out, error = capsys.readouterr()
        assert out.strip() == ""
        assert error.strip().count("\n") == 0
        assert error.startswith("foldline: ")
        assert message in error
        assert sorted(source.parent.rglob("*")) == before


class TestCollection:
    def test_chains_of_the_collection(self, tmp_path: Path) -> None:
        """Real pairs of structure and alignment: all are stored, and what the manifest calls identical needs no repair."""
        rows = list(csv.DictReader(need_data("manifest.tsv").open(), delimiter="\t"))[::5]
        source = tmp_path / "source"
        source.mkdir()
        for row in rows:
            ending = ".pdb.gz" if row["fmt"] == "pdb" else ".cif.gz"
            (source / f"{row['id']}{ending}").symlink_to(need_data(row["structure_file"]))
            (source / f"{row['id']}.a3m.gz").symlink_to(need_data(row["msa_file"]))
        report, store = run(source)
        assert report.quarantined == ()
        assert len(store) == len(rows)
        for row in rows:
            record = store.record(row["id"])
            given = read_a3m(need_data(row["msa_file"])).rows
            assert len(record.sequence) == int(row["length"])
            assert len(given) == int(row["msa_depth"])
            assert len(record.msas[0].rows) == len(np.unique(given, axis=0))
            assert float(row["frac_obs_identical_to_query"]) > 0.99 or row["id"] in {o.name for o in report.repaired}


class TestFoldInput:
    def test_alignment_with_and_without_a_structure(self, source: Path) -> None:
        (source / "2hba_A.pdb.gz").unlink()
        first, second = read_fold_input(source)
        assert (first.metadata.chain_id, second.metadata.chain_id) == ("1ubq_A", "2hba_A")
        assert first.mask.sum() == 601
        assert not second.mask.any()
        assert len(second.msas[0].rows) == 326
        (alone,) = read_fold_input(source / "1ubq_A.a3m.gz")
        assert_same(alone, first)

    def test_sequences_alone(self, tmp_path: Path) -> None:
        (tmp_path / "two.fasta").write_text(f">first one\n{UBIQUITIN[:40]}\n{UBIQUITIN[40:].lower()}\n>second/x\nACDB*\n")
        (tmp_path / "three.fa").write_text(">whatever\nAAA\n")
        records = {record.metadata.chain_id: record for record in read_fold_input(tmp_path)}
        assert {name: record.sequence for name, record in records.items()} == {"first": UBIQUITIN, "second_x": "ACDD", "three": "AAA"}
        assert all(len(record.msas[0].rows) == 1 and not record.mask.any() for record in records.values())

    def test_a_structure_alone_gives_its_sequence(self, source: Path) -> None:
        (source / "1ubq_A.a3m.gz").unlink()
        assert read_fold_input(source)[0].sequence == UBIQUITIN

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({}, "holds nothing to fold"),
            ({"a.fasta": ">x\nAC1\n"}, "no text of one-letter codes"),
            ({"a.fasta": ">x\nACD\n>x\nACD\n"}, "gives 'x' twice"),
            ({"a.a3m": ">x\nACD\n", "a.fasta": ">x\nACD\n"}, "gives 'a' twice"),
            ({"a.a3m": ">x\nACD\n", "a.pdb": "nonsense"}, "a.pdb"),
            ({"a.a3m": "ACD"}, "does not begin with"),
        ],
    )
    def test_a_mistake(self, tmp_path: Path, files: dict[str, str], message: str) -> None:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        with pytest.raises(FoldlineError, match=message):
            read_fold_input(tmp_path)

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(FoldlineError, match="does not exist"):
            read_fold_input(tmp_path / "a.a3m")
        (tmp_path / "a.txt").write_text("x")
        with pytest.raises(FoldlineError, match="is not read"):
            read_fold_input(tmp_path / "a.txt")
