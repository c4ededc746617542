"""Structure files: what is read of real entries, and the rules for what is ambiguous in them."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import gemmi
import numpy as np
import pytest

from foldline.data_store.parse.structure import ParsedChain, read_structure
from foldline.data_store.residues import ATOM37_MASK, ATOM_INDEX, RESTYPES, encode_sequence
from foldline.errors import FoldlineError
from foldline.tests.data_store.store_cases import DEMO, need_data

DEMO_STRUCTURES = sorted(p for p in DEMO.rglob("*.gz") if ".a3m" not in p.name)


def atom(serial: int, name: str, residue: str, number: int, xyz: Sequence[float], **given: object) -> str:
    """One ATOM line of a PDB file."""
    fields = {"chain": "A", "altloc": " ", "icode": " ", "occupancy": 1.0, "record": "ATOM", **given}
    element = "SE" if name == "SE" else name[0]
    padded = name if len(element) == 2 else f" {name:<3}"
    return (
        f"{fields['record']:<6}{serial:>5} {padded:<4}{fields['altloc']}{residue:>3} {fields['chain']}{number:>4}{fields['icode']}   "
        f"{xyz[0]:>8.3f}{xyz[1]:>8.3f}{xyz[2]:>8.3f}{fields['occupancy']:>6.2f}{10.0:>6.2f}          {element:>2}"
    )


def residue(name: str, number: int, extra: Sequence[str] = (), **given: object) -> list[str]:
    """Backbone atoms, and ``extra`` ones, at places that follow from the residue's number."""
    return [
        atom(1, a, name, number, (3.8 * number + i, 1.5 * i, 0.25 * number), **given) for i, a in enumerate(("N", "CA", "C", "O", *extra))
    ]


def parse(tmp_path: Path, lines: Sequence[str], name: str = "x.pdb") -> dict[str, ParsedChain]:
    (tmp_path / name).write_text("\n".join([*lines, "END", ""]))
    return read_structure(tmp_path / name).chains


def at(chain: ParsedChain, place: int, name: str) -> list[float]:
    assert chain.mask[place, ATOM_INDEX[name]] == 1
    return [round(float(x), 3) for x in chain.positions[place, ATOM_INDEX[name]]]


class TestRealEntries:
    def test_ubiquitin_atom_by_atom(self) -> None:
        """Against a reading of the atom_site loop line by line."""
        text = gzip.decompress((DEMO / "1ubq_A.cif.gz").read_bytes()).decode()
        tags = [line.split(".")[1].strip() for line in text.splitlines() if line.startswith("_atom_site.")]
        rows = [dict(zip(tags, line.split(), strict=True)) for line in text.splitlines() if line.startswith("ATOM ")]
        rows = [row for row in rows if row["label_atom_id"] != "OXT"]  # the second oxygen of the last residue is no atom of its type
        structure = read_structure(DEMO / "1ubq_A.cif.gz")
        chain = structure.chains["A"]
        assert len(rows) == int(chain.mask.sum()) == 601
        for row in rows:
            place = int(row["label_seq_id"]) - 1
            assert at(chain, place, row["label_atom_id"]) == [float(row[f"Cartn_{c}"]) for c in "xyz"]
            assert gemmi.find_tabulated_residue(row["label_comp_id"]).one_letter_code == chain.sequence[place]
        assert (structure.entry_id, structure.resolution, structure.method) == ("1ubq", 1.8, "X-RAY DIFFRACTION")
        assert structure.release_date == "1987-04-16"
        assert structure.title == "STRUCTURE OF UBIQUITIN REFINED AT 1.8 ANGSTROMS RESOLUTION"

    @pytest.mark.parametrize("path", DEMO_STRUCTURES, ids=lambda p: p.name)
    def test_the_demo_proteins_are_complete(self, path: Path) -> None:
        (chain,) = read_structure(path).chains.values()
        types = encode_sequence(chain.sequence)
        assert (chain.mask == ATOM37_MASK[types]).all()
        assert (np.linalg.norm(np.diff(chain.positions[:, ATOM_INDEX["CA"]], axis=0), axis=-1) < 4.1).all()
        assert chain.notes == ()
        for place in np.flatnonzero(types == RESTYPES.index("R")):
            first, second = (
                np.linalg.norm(chain.positions[place, ATOM_INDEX[n]] - chain.positions[place, ATOM_INDEX["CD"]]) for n in ("NH1", "NH2")
            )
            assert first <= second

    def test_pdb_mmcif_crlf_and_plain_text_agree(self, tmp_path: Path) -> None:
        text = gzip.decompress((DEMO / "1ubq_A.cif.gz").read_bytes())
        (tmp_path / "crlf.cif").write_bytes(text.replace(b"\n", b"\r\n"))
        structure = gemmi.read_structure(str(DEMO / "1ubq_A.cif.gz"))
        (tmp_path / "same.ent").write_text(structure.make_pdb_string())
        original = read_structure(DEMO / "1ubq_A.cif.gz").chains["A"]
        for name in ("crlf.cif", "same.ent"):
            other = read_structure(tmp_path / name).chains["A"]
            assert other.sequence == original.sequence
            np.testing.assert_array_equal(other.mask, original.mask)
            np.testing.assert_array_equal(other.positions, original.positions)

    def test_unobserved_residues_are_masked_and_numbered(self) -> None:
        path = need_data("structures/1ctf.pdb.gz")
        chain = read_structure(path).chains["A"]
        assert len(chain.sequence) == 74
        assert not chain.mask[:6].any()
        assert chain.mask[6:, ATOM_INDEX["CA"]].all()
        assert chain.sequence.startswith("AAEEKTEFDV")


class TestRules:
    def test_selenomethionine_is_methionine(self, tmp_path: Path) -> None:
        chain = parse(tmp_path, [*residue("GLY", 1), *residue("MSE", 2, ("CB", "CG", "SE", "CE"), record="HETATM"), *residue("ALA", 3)])[
            "A"
        ]
        assert chain.sequence == "GMA"
        assert at(chain, 1, "SD") == [3.8 * 2 + 6, 1.5 * 6, 0.5]
        assert chain.mask[1].sum() == 8

    @pytest.mark.parametrize(("nh1", "nh2"), [((1.0, 0.0, 0.0), (2.0, 0.0, 0.0)), ((2.0, 0.0, 0.0), (1.0, 0.0, 0.0))])
    def test_arginine_nh1_is_the_nearer_to_cd(self, tmp_path: Path, nh1: tuple[float, ...], nh2: tuple[float, ...]) -> None:
        side = [atom(9, name, "ARG", 2, xyz) for name, xyz in (("CD", (0.1, 0.0, 0.0)), ("NH1", nh1), ("NH2", nh2))]
        chain = parse(tmp_path, [*residue("GLY", 1), *residue("ARG", 2), *side, *residue("GLY", 3)])["A"]
        assert at(chain, 1, "NH1") == [1.0, 0.0, 0.0]
        assert at(chain, 1, "NH2") == [2.0, 0.0, 0.0]

    @pytest.mark.parametrize(("occupancies", "kept"), [((0.4, 0.6), "B"), ((0.6, 0.4), "A"), ((0.5, 0.5), "A")])
    def test_the_alternative_with_the_highest_occupancy(self, tmp_path: Path, occupancies: tuple[float, float], kept: str) -> None:
        side = [
            atom(9, "CB", "SER", 2, (i, j, 5.0), altloc=label, occupancy=occupancy)
            for i, (label, occupancy) in enumerate(zip("AB", occupancies, strict=True), start=1)
            for j in (1,)
        ]
        lone = atom(9, "OG", "SER", 2, (7.0, 7.0, 7.0), altloc="B" if kept == "A" else "A", occupancy=0.3)
        chain = parse(tmp_path, [*residue("GLY", 1), *residue("SER", 2), *side, lone, *residue("GLY", 3)])["A"]
        assert at(chain, 1, "CB") == [1.0 + "AB".index(kept), 1.0, 5.0]
        assert at(chain, 1, "OG") == [7.0, 7.0, 7.0]  # what the chosen place lacks is not lost

    def test_unknown_and_mirror_residues_are_x_with_backbone_and_cb(self, tmp_path: Path) -> None:
        lines = [
            *residue("ALA", 1),
            *residue("UNK", 2, ("CB", "CG")),
            *residue("DLE", 3, ("CB", "CG")),
            *residue("SEP", 4, ("CB", "OG", "P")),
        ]
        chain = parse(tmp_path, [*lines, *residue("ALA", 5)])["A"]
        assert chain.sequence == "AXXSA"
        assert chain.mask.sum(axis=1).tolist() == [4, 5, 5, 6, 4]

    def test_water_ligands_and_nucleic_acids_are_left_out(self, tmp_path: Path) -> None:
        dna = [
            atom(1, a, "DA", n, (n, i, 0.5), chain="B") for n in (1, 2, 3) for i, a in enumerate(("P", "O5'", "C5'", "C4'", "C3'", "O3'"))
        ]
        hetero = [atom(1, "O", "HOH", 90, (1, 1, 1), record="HETATM"), atom(1, "C1", "GOL", 91, (2, 2, 2), record="HETATM")]
        chains = parse(tmp_path, [*residue("ALA", 1), *residue("GLY", 2), *residue("GLY", 3), "TER", *dna, "TER", *hetero])
        assert {name: chain.sequence for name, chain in chains.items()} == {"A": "AGG"}

    def test_insertion_codes_are_residues_of_their_own(self, tmp_path: Path) -> None:
        chain = parse(tmp_path, [*residue("ALA", 1), *residue("GLY", 1, icode="A"), *residue("SER", 1, icode="B"), *residue("VAL", 2)])["A"]
        assert chain.sequence == "AGSV"

    def test_the_first_model(self, tmp_path: Path) -> None:
        one = [*residue("ALA", 1), *residue("GLY", 2)]
        other = [*residue("VAL", 1), *residue("VAL", 2)]
        assert parse(tmp_path, ["MODEL        1", *one, "ENDMDL", "MODEL        2", *other, "ENDMDL"])["A"].sequence == "AG"

    def test_a_chain_without_a_name_is_a(self, tmp_path: Path) -> None:
        assert parse(tmp_path, [*residue("ALA", 1, chain=" "), *residue("GLY", 2, chain=" ")])["A"].sequence == "AG"

    def test_a_blank_coordinate_is_a_missing_atom(self, tmp_path: Path) -> None:
        lines = [*residue("ALA", 1), *residue("GLY", 2)]
        lines[2] = lines[2][:30] + " " * 24 + lines[2][54:]
        chain = parse(tmp_path, lines)["A"]
        assert chain.mask[0].tolist()[:4] == [1, 1, 0, 0]

    def test_line_numbers_of_old_files_are_ignored_and_told(self, tmp_path: Path) -> None:
        lines = [line[:66] + f"      1ABC{i:>4}" for i, line in enumerate([*residue("ALA", 1), *residue("GLY", 2)], start=70)]
        chain = parse(tmp_path, lines)["A"]
        assert chain.sequence == "AG"
        assert "element and charge" in chain.notes[0]

    def test_seqres_that_does_not_fit_gives_way_to_what_is_observed(self, tmp_path: Path) -> None:
        seqres = "SEQRES   1 A    4  TRP TRP TRP TRP"
        chain = parse(tmp_path, [seqres, *residue("ALA", 1), *residue("GLY", 2), *residue("SER", 3)])["A"]
        assert chain.sequence == "AGS"
        assert chain.mask[:, ATOM_INDEX["CA"]].all()

    def test_seqres_with_unobserved_residues(self, tmp_path: Path) -> None:
        seqres = "SEQRES   1 A    6  TRP ALA GLY SER LYS LYS"
        chain = parse(tmp_path, [seqres, *residue("ALA", 1), *residue("GLY", 2), *residue("SER", 3)])["A"]
        assert chain.sequence == "WAGSKK"
        assert chain.mask[:, ATOM_INDEX["CA"]].tolist() == [0, 1, 1, 1, 0, 0]

    @pytest.mark.parametrize("history", ["", "REVDAT   2   01-APR-03 1ABC    1\nREVDAT   1   02-MAR-99 1ABC    0"])
    def test_the_release_is_the_first_revision(self, tmp_path: Path, history: str) -> None:
        header = "HEADER    PROTEIN                                 04-MAY-97   1ABC"
        (tmp_path / "x.pdb").write_text("\n".join([header, *history.splitlines(), *residue("ALA", 1), *residue("GLY", 2), "END"]))
        assert read_structure(tmp_path / "x.pdb").release_date == ("1999-03-02" if history else "1997-05-04")


class TestBadFiles:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.cif", b"", "a.cif is empty"),
            ("a.cif.gz", b"data_x\n", "named .gz but is not gzip"),
            ("a.cif.gz", gzip.compress(b"data_x\n" * 99)[:-9], "cut off or damaged gzip"),
            ("a.cif.gz", gzip.compress(gzip.compress(b"data_x\n")), "packed twice"),
            ("a.cif", gzip.compress(b"data_x\n"), "packed but not named .gz"),
            ("a.cif", b"hello", "not a valid mmCIF"),
            ("a.cif", b"data_x\n_cell.length_a 1\n", "no _atom_site loop"),
            ("a.pdb", b"hello\n", "no coordinates"),
            ("a.pdb", bytes(range(256)) * 4, "a.pdb"),
            ("a.bcif", b"x", "a.bcif is not read"),
        ],
    )
    def test_one_message_that_names_the_file(self, tmp_path: Path, name: str, content: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FoldlineError, match=message):
            read_structure(tmp_path / name)

    def test_a_cut_mmcif(self, tmp_path: Path) -> None:
        text = gzip.decompress((DEMO / "1ubq_A.cif.gz").read_bytes())
        (tmp_path / "a.cif").write_bytes(text[: text.index(b"ATOM   300") + 31])
        with pytest.raises(FoldlineError, match=r"a\.cif is not a valid mmCIF file"):
            read_structure(tmp_path / "a.cif")

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FoldlineError, match="cannot be read"):
            read_structure(tmp_path / "a.cif")
