"""From hits to templates: AF2's limits, where structures are found, hits whose chain has changed, and real searches end to end."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import numpy as np
import pytest

from foldline.data_store.match import match_query
from foldline.data_store.parse.a3m import read_a3m
from foldline.data_store.parse.fasta import read_fasta
from foldline.data_store.parse.hhr import read_hhr
from foldline.data_store.parse.hmmsearch import read_hmmsearch
from foldline.data_store.parse.structure import open_structure, read_structure
from foldline.data_store.residues import ATOM37_MASK, GAP, decode_sequence, encode_sequence
from foldline.data_store.templates import structures as structures_module
from foldline.data_store.templates.align import place_hit
from foldline.data_store.templates.featurize import build_templates
from foldline.data_store.templates.limits import TemplateLimits
from foldline.data_store.templates.structures import TemplateStructures
from foldline.errors import FoldlineError
from foldline.tests.data_store.store_cases import DEMO, need_data
from foldline.tests.data_store.template_cases import UBIQUITIN, folder_of, hit, superposed_rmsd

OTHER = "A" * 40 + UBIQUITIN  # a query of which ubiquitin is a part, but not nearly all


@pytest.fixture
def one(tmp_path: Path) -> TemplateStructures:
    return TemplateStructures(folder_of(tmp_path, **{"1ubq__cif__gz": "1ubq_A.cif.gz"}))


class TestLimits:
    def test_an_ordinary_hit_passes(self) -> None:
        assert TemplateLimits().refusal(hit(UBIQUITIN), OTHER) == ""

    def test_own_entry(self) -> None:
        assert TemplateLimits(query_pdb_id="1UBQ").refusal(hit(UBIQUITIN), OTHER) == "is the query's own entry"

    def test_aligned_part_must_exceed_a_tenth(self) -> None:
        query = "A" * 150
        assert "aligns 15 of 150" in TemplateLimits().refusal(hit("A" * 14 + "C"), query)
        assert TemplateLimits().refusal(hit("A" * 15 + "C"), query) == ""

    def test_the_query_again_is_refused_only_when_nearly_whole_and_exact(self) -> None:
        limits = TemplateLimits()
        assert "exact piece of the query with 76 of 76" in limits.refusal(hit(UBIQUITIN), UBIQUITIN)
        assert "exact piece" in limits.refusal(hit(UBIQUITIN[:73]), UBIQUITIN)
        assert limits.refusal(hit(UBIQUITIN[:72]), UBIQUITIN) == ""  # 72 / 76 is below 0.95
        assert limits.refusal(hit("W" + UBIQUITIN[1:]), UBIQUITIN) == ""

    def test_short_hits(self) -> None:
        assert "has 9 residues" in TemplateLimits().refusal(hit("ACDEFGHIK"), "W" * 20)
        assert TemplateLimits().refusal(hit("ACDEFGHIKL"), "W" * 20) == ""

    def test_the_earlier_date_holds_and_the_day_itself_is_allowed(self) -> None:
        limits = TemplateLimits(max_release_date="2018-04-30", query_release_date="2001-05-06")
        assert limits.last_date == "2001-05-06"
        assert limits.refusal_by_date("2001-05-06") == ""
        assert "was released 2001-05-07, after 2001-05-06" in limits.refusal_by_date("2001-05-07")
        assert "has no release date" in limits.refusal_by_date("")
        assert TemplateLimits().refusal_by_date("") == ""

    @pytest.mark.parametrize("date", ["2018", "30-04-2018", "2018/04/30", "yesterday!"])
    def test_wrong_dates(self, date: str) -> None:
        with pytest.raises(FoldlineError, match=r"max_release_date is .* give an ISO date"):
            TemplateLimits(max_release_date=date)

    def test_negative_count(self) -> None:
        with pytest.raises(FoldlineError, match="max_hits is -1"):
            TemplateLimits(max_hits=-1)


class TestStructures:
    @pytest.mark.parametrize(
        "name", ["1ubq__cif__gz", "1UBQ__cif__gz", "ub___1ubq__cif__gz", "1ubq__mmcif__gz", "ub___pdb1ubq__ent__gz", "1ubq__pdb__gz"]
    )
    def test_where_a_file_is_found(self, name: str, tmp_path: Path) -> None:
        target = "1bxy_A.pdb.gz" if "ent" in name or "__pdb" in name else "1ubq_A.cif.gz"
        found = TemplateStructures(folder_of(tmp_path, **{name: target}))
        assert len(found.open("1ubq").sequence("A")) == (60 if target.startswith("1bxy") else 76)

    def test_mmcif_is_preferred(self, tmp_path: Path) -> None:
        found = TemplateStructures(folder_of(tmp_path, **{"1ubq__pdb__gz": "1bxy_A.pdb.gz", "1ubq__cif__gz": "1ubq_A.cif.gz"}))
        assert found.open("1ubq").sequence("A") == UBIQUITIN

    def test_each_file_is_parsed_once_and_only_some_stay_open(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        opened: list[str] = []
        monkeypatch.setattr(structures_module, "open_structure", lambda path: opened.append(path.name) or open_structure(path))
        folder = folder_of(tmp_path, **{f"{i}ubq__cif__gz": "1ubq_A.cif.gz" for i in (1, 2, 3)})
        found = TemplateStructures(folder, keep=2)
        hits = [hit(UBIQUITIN[i : i + 30], f"{pdb}ubq_A") for pdb in (1, 2) for i in range(10)]
        build_templates(OTHER, hits + hits, found, TemplateLimits(max_hits=100))
        assert sorted(opened) == ["1ubq.cif.gz", "2ubq.cif.gz"]
        for pdb_id in ("3ubq", "2ubq", "1ubq"):
            found.open(pdb_id)
        assert opened[2:] == ["3ubq.cif.gz", "1ubq.cif.gz"]

    def test_missing_and_damaged_entries_are_notes_not_errors(self, one: TemplateStructures) -> None:
        (one.folder / "2bad.cif").write_text("data_x\nloop_\n_atom_site.id\n")
        hits = [hit(UBIQUITIN, "9zzz_A"), hit(UBIQUITIN, "2bad_A"), hit(UBIQUITIN, "UP20|X"), hit(UBIQUITIN)]
        templates, notes = build_templates(OTHER, hits, one, TemplateLimits())
        assert templates.names == ("1ubq_A",)
        assert "template 9zzz_A: no file of entry 9zzz" in notes[0]
        assert "9zzz.cif, there and in zz/" in notes[0]
        assert notes[1].startswith("template 2bad_A: 2bad.cif ")
        assert notes[2] == "template UP20|X: its name is no PDB entry"

    def test_obsolete_entries_are_read_under_their_successor(self, one: TemplateStructures, tmp_path: Path) -> None:
        table = tmp_path / "obsolete.dat"
        table.write_text(
            " LIST OF OBSOLETE\nOBSLTE    31-JUL-94 116L     2ABC\nOBSLTE    31-JUL-95 2ABC     1UBQ\nOBSLTE    26-SEP-06 2H33\n"
        )
        found = TemplateStructures(one.folder, obsolete=table)
        templates, _ = build_templates(OTHER, [hit(UBIQUITIN, "116l_A")], found, TemplateLimits())
        assert templates.names == ("1ubq_A",)
        _, notes = build_templates(OTHER, [hit(UBIQUITIN, "116l_A")], found, TemplateLimits(query_pdb_id="1ubq"))
        assert "own entry" in notes[0]
        table.write_text("nothing\n")
        with pytest.raises(FoldlineError, match=r"obsolete\.dat has no line 'OBSLTE"):
            TemplateStructures(one.folder, obsolete=table)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FoldlineError, match="is not a folder"):
            TemplateStructures(tmp_path / "none")


class TestPlacement:
    """The cases of AF2's search of a hit's letters in its structure."""

    entry = staticmethod(lambda: open_structure(DEMO / "1ubq_A.cif.gz"))

    def test_the_named_chain(self) -> None:
        found = place_hit(UBIQUITIN[10:40], "A", self.entry())
        assert found.places.tolist() == list(range(10, 40))
        assert not found.realigned

    def test_another_chain_when_it_was_renamed(self) -> None:
        found = place_hit(UBIQUITIN[10:40], "Q", self.entry())
        assert (found.chain.name, found.places[0]) == ("A", 10)

    def test_the_named_chain_before_an_earlier_one_with_the_same_letters(self) -> None:
        entry = open_structure(need_data("nasty/4hhb.cif.gz"))
        assert place_hit(entry.sequence("B")[20:60], "D", entry).chain.name == "D"

    def test_x_stands_for_any_residue_on_either_side(self) -> None:
        found = place_hit("X" + UBIQUITIN[11:20] + "X" + UBIQUITIN[21:40], "A", self.entry())
        assert found.places.tolist() == list(range(10, 40))
        assert found.letters[0] == "X"  # the hit's own letters, as in AF2
        unknown = open_structure(need_data("nasty/5eil.cif.gz"))
        sequence = next(unknown.sequence(name) for name in unknown.chain_names if "X" in unknown.sequence(name).strip("X"))
        place = sequence.index("X", 1)
        letters = sequence[: place + 8].replace("X", "W")
        assert place_hit(letters, "", unknown).places.tolist() == list(range(len(letters)))

    def test_realigned_where_letters_differ(self) -> None:
        letters = UBIQUITIN[5:20] + UBIQUITIN[22:45] + "W" + UBIQUITIN[46:70]
        found = place_hit(letters, "A", self.entry())
        assert found.realigned
        expected = [*range(5, 20), *range(22, 70)]
        assert found.places.tolist() == expected
        assert found.letters == "".join(UBIQUITIN[i] for i in expected)  # what the structure has

    def test_inserted_letters_have_no_place(self) -> None:
        letters = UBIQUITIN[:38] + "WWW" + UBIQUITIN[38:]
        found = place_hit(letters, "A", self.entry())
        assert found.realigned
        assert (found.places < 0).sum() == 3
        assert (found.places[:35] == np.arange(35)).all()
        assert (found.places[-35:] == np.arange(41, 76)).all()

    def test_another_protein_is_refused(self) -> None:
        changed = "".join("W" if i % 5 == 0 else letter for i, letter in enumerate(UBIQUITIN))
        with pytest.raises(FoldlineError, match="60 of 76 residues are the hit's, 90 % are needed"):
            place_hit(changed, "A", self.entry())

    def test_an_unknown_chain_among_several_is_refused_and_the_only_one_is_taken(self) -> None:
        letters = UBIQUITIN[:45] + "W" + UBIQUITIN[46:]
        assert place_hit(letters, "Z", self.entry()).chain.name == "A"
        with pytest.raises(FoldlineError, match=r"has no protein chain 'Z' \(it has A, B, C, D\)"):
            place_hit(letters, "Z", open_structure(need_data("nasty/4hhb.cif.gz")))

    def test_no_protein_at_all(self) -> None:
        with pytest.raises(FoldlineError, match=r"has no protein chain 'A' \(it has none\)"):
            place_hit(UBIQUITIN, "A", open_structure(need_data("nasty/1bna.cif.gz")))


class TestFeatures:
    def test_coordinates_stand_in_the_querys_numbering(self, one: TemplateStructures) -> None:
        truth = read_structure(DEMO / "1ubq_A.cif.gz").chains["A"]
        row = hit(UBIQUITIN[10:40], query=OTHER[50:80], start=50)
        templates, notes = build_templates(OTHER, [row], one, TemplateLimits())
        assert notes == ()
        assert (templates.aatype.dtype, templates.positions.dtype, templates.mask.dtype) == (np.int8, np.float32, np.uint8)
        assert decode_sequence(templates.aatype[0]) == "-" * 50 + UBIQUITIN[10:40] + "-" * 36
        np.testing.assert_array_equal(templates.positions[0, 50:80], truth.positions[10:40])
        np.testing.assert_array_equal(templates.mask[0, 50:80], truth.mask[10:40])
        assert not templates.mask[0, :50].any()
        assert not templates.mask[0, 80:].any()
        assert templates.sum_probs.tolist() == [10.0]

    def test_a_search_with_a_longer_or_shorter_query_is_shifted_and_another_one_refused(self, one: TemplateStructures) -> None:
        shifted = hit(UBIQUITIN[10:40], query=OTHER[50:80], start=7)
        templates, _ = build_templates(OTHER, [shifted], one, TemplateLimits())
        assert decode_sequence(templates.aatype[0]).index(UBIQUITIN[10:40]) == 50
        _, notes = build_templates(OTHER, [hit(UBIQUITIN[10:40], query="W" * 30)], one, TemplateLimits())
        assert "the search was made with another sequence" in notes[0]

    def test_a_repeat_in_the_query_is_placed_by_the_hits_numbers(self, one: TemplateStructures) -> None:
        twice = UBIQUITIN + UBIQUITIN
        templates, _ = build_templates(twice, [hit(UBIQUITIN[10:40], start=86)], one, TemplateLimits())
        assert decode_sequence(templates.aatype[0]) == "-" * 86 + UBIQUITIN[10:40] + "-" * 36

    def test_order_count_and_repeats(self, one: TemplateStructures) -> None:
        probs = [3.0, 9.0, 6.0, 9.0]
        hits = [hit(UBIQUITIN[i : i + 30], query=OTHER[40 + i : 70 + i], start=40 + i, sum_probs=p) for i, p in enumerate(probs)]
        templates, _ = build_templates(OTHER, hits, one, TemplateLimits(max_hits=3))
        assert templates.sum_probs.tolist() == [9.0, 9.0, 6.0]
        assert [int((row != GAP).argmax()) for row in templates.aatype] == [41, 43, 42]
        scored_twice, _ = build_templates(OTHER, [hits[1], hits[1]], one, TemplateLimits())
        assert len(scored_twice.names) == 2  # HHsearch's hits are not compared with each other, as in AF2
        unscored = [dataclasses.replace(h, sum_probs=None) for h in (hits[2], hits[0], hits[2])]
        templates, notes = build_templates(OTHER, unscored, one, TemplateLimits())
        assert [int((row != GAP).argmax()) for row in templates.aatype] == [42, 40]
        assert "is that of a template before it" in notes[0]

    @pytest.mark.parametrize("limits", [TemplateLimits(max_hits=0), TemplateLimits(max_release_date="1980-01-01")])
    def test_none_at_all_has_shapes(self, one: TemplateStructures, limits: TemplateLimits) -> None:
        templates, _ = build_templates(OTHER, [hit(UBIQUITIN)], one, limits)
        assert templates.aatype.shape == (0, 116)
        assert templates.positions.shape == (0, 116, 37, 3)
        assert templates.mask.shape == (0, 116, 37)
        assert (templates.names, templates.sum_probs.shape) == ((), (0,))

    def test_unobserved_and_absurd_coordinates_are_refused(self, tmp_path: Path) -> None:
        text = gzip.decompress((DEMO / "1bxy_A.pdb.gz").read_bytes()).decode().splitlines()
        atoms = [line for line in text if line.startswith("ATOM")]
        number = sorted({int(line[22:26]) for line in atoms})[30]
        far = [line[:30] + f"{900.0:8.3f}" + line[38:] if int(line[22:26]) == number else line for line in atoms]
        (tmp_path / "1bxy.pdb").write_text("\n".join([*far, "END", ""]))
        letters = read_structure(DEMO / "1bxy_A.pdb.gz").chains["A"].sequence
        _, notes = build_templates("A" * 40 + letters, [hit(letters, "1bxy_A")], TemplateStructures(tmp_path), TemplateLimits())
        assert "its coordinates are damaged" in notes[0]


class TestRealSearches:
    """Folders of real alignments with some of the structures that they name."""

    def test_globins_of_haemoglobin(self) -> None:
        folder = need_data("templates/1a00_A")
        query = read_a3m(folder / "uniref90_hits.a3m.gz").query
        hits = read_hhr(folder / "pdb70_hits.hhr.gz")
        templates, notes = build_templates(query, hits, TemplateStructures(folder / "pdb"), TemplateLimits(query_pdb_id="1a00"))
        assert templates.names == ("1hlb_A", "1hlm_A")
        assert len(notes) == len(hits) - 2
        truth = match_query(read_structure(need_data("nasty/4hhb.cif.gz")).chains["A"], query)
        for number in range(2):
            assert (templates.mask[number, :, 1] > 0).sum() == 140
            assert superposed_rmsd(templates, number, truth.positions, truth.mask) < 3.0  # globins of 24 and 30 % identity

    def test_lysozymes(self) -> None:
        folder = need_data("templates/P61626_lysozyme")
        ((_, query),) = read_fasta(folder / "P61626.fasta")
        hits = read_hmmsearch(folder / "pdb_hits.sto.gz", query)
        structures = TemplateStructures(folder / "mmcif")
        templates, notes = build_templates(query, hits, structures, TemplateLimits())
        assert len(templates.names) == len(set(templates.names)) == 20
        assert sum("before it" in note for note in notes) == 4  # further chains of 1i22 and 3ln2
        truth = match_query(read_structure(folder / "mmcif" / "1lhl.cif.gz").chains["A"], query)
        for number in range(20):
            assert superposed_rmsd(templates, number, truth.positions, truth.mask) < 0.6
            same = templates.aatype[number] == encode_sequence(query)
            assert same.sum() >= 126
            assert (templates.mask[number] <= ATOM37_MASK[np.minimum(templates.aatype[number], 20)] + (same == 0)[:, None]).all()
        earlier, _ = build_templates(query, hits, structures, TemplateLimits(max_release_date="1999-12-31"))
        assert set(earlier.names) < set(templates.names)
        assert all("" < structures.open(name[:4]).release_date <= "1999-12-31" for name in earlier.names)

    def test_antibodies_agree_with_each_other(self) -> None:
        folder = need_data("templates/1a2y_B")
        query = read_a3m(folder / "uniref90_hits.a3m.gz").query
        templates, notes = build_templates(
            query, read_hhr(folder / "pdb70_hits.hhr.gz"), TemplateStructures(folder / "pdb"), TemplateLimits(query_pdb_id="1a2y")
        )
        assert templates.names == ("1igy_D", "1igt_D", "1ncb_H")
        assert any("1a2y_B: is the query's own entry" in note for note in notes)
        for number in (1, 2):
            assert superposed_rmsd(templates, number, templates.positions[0], templates.mask[0]) < 2.5
