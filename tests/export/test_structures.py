"""Written structures read back equal, by another program's parser."""

from __future__ import annotations

import json

import gemmi
import numpy as np
import pytest

from foldline.data_store.residues import ATOM37_MASK, ATOM_TYPES, encode_sequence
from foldline.export.structures import Structure, mmcif_text, pae_json, pdb_text, write_structures

SEQUENCE = "MKVARNDCQEGHILKMFPSTWYVX"


@pytest.fixture
def structure() -> Structure:
    rng = np.random.default_rng(0)
    aatype = encode_sequence(SEQUENCE)
    index = np.arange(len(aatype)) + np.where(np.arange(len(aatype)) > 9, 4, 0)  # a gap in the numbering
    positions = rng.normal(0, 40, (len(aatype), 37, 3)).astype(np.float32)
    plddt = rng.uniform(0, 100, len(aatype)).astype(np.float32)
    return Structure("1abc_A", aatype, index, positions, ATOM37_MASK[aatype], plddt, ptm=0.531, title="A 'quoted' title; and more")


def parsed(text: str, form: str) -> gemmi.Structure:
    if form == "cif":
        return gemmi.make_structure_from_block(gemmi.cif.read_string(text).sole_block())
    return gemmi.read_pdb_string(text)


@pytest.mark.parametrize("form", ["cif", "pdb"])
def test_round_trip(structure: Structure, form: str) -> None:
    read = parsed(mmcif_text(structure) if form == "cif" else pdb_text(structure), form)
    (chain,) = read[0]
    with_atoms = structure.atom_mask.any(-1)
    assert chain.name == "A"
    assert [r.seqid.num for r in chain] == list(structure.residue_index[with_atoms] + 1)
    assert gemmi.one_letter_code(read.entities[0].full_sequence) == SEQUENCE
    for residue, row in zip(chain, np.flatnonzero(with_atoms), strict=True):
        assert {a.name for a in residue} == {ATOM_TYPES[i] for i in np.flatnonzero(structure.atom_mask[row])}
        for atom in residue:
            np.testing.assert_allclose(atom.pos.tolist(), structure.positions[row, ATOM_TYPES.index(atom.name)], atol=6e-4)
            assert atom.b_iso == pytest.approx(structure.plddt[row], abs=6e-3)
            assert atom.element.name == atom.name[0]


def test_modelcif_categories(structure: Structure) -> None:
    block = gemmi.cif.read_string(mmcif_text(structure)).sole_block()
    local = block.get_mmcif_category("_ma_qa_metric_local.")
    np.testing.assert_allclose([float(v) for v in local["metric_value"]], structure.plddt, atol=6e-3)
    assert local["label_comp_id"] == structure.residue_names
    metrics = block.get_mmcif_category("_ma_qa_metric.")
    overall = block.get_mmcif_category("_ma_qa_metric_global.")
    values = {metrics["name"][metrics["id"].index(i)]: float(v) for i, v in zip(overall["metric_id"], overall["metric_value"], strict=True)}
    assert values == {"pLDDT": pytest.approx(structure.plddt.mean(), abs=6e-3), "pTM": 0.531}
    assert block.find_value("_struct.title").strip('"') == structure.title
    assert block.find_value("_audit_conform.dict_name").strip("'") == "mmcif_ma.dic"
    tags = [item.loop.tags[0] for item in block if item.loop is not None]
    assert tags[-1].startswith("_atom_site.")


def test_pae_has_alphafold_db_form() -> None:
    pae = np.array([[0.2, 30.6], [4.4, 0.0]])
    assert json.loads(pae_json(pae, 31.75)) == [{"predicted_aligned_error": [[0, 31], [4, 0]], "max_predicted_aligned_error": 31.75}]


def test_names_that_files_cannot_hold_are_made_safe(structure: Structure) -> None:
    text = mmcif_text(Structure("a b/c", *list(structure.__dict__.values())[1:6]))
    assert gemmi.cif.read_string(text).sole_block().name == "a_b_c"


def test_long_chains_are_written_as_mmcif_only(structure: Structure, tmp_path) -> None:  # type: ignore[no-untyped-def]
    n = 10_000
    mask = np.zeros((n, 37))
    mask[:, 1] = 1
    long = Structure("long", np.zeros(n, int), np.arange(n), np.zeros((n, 37, 3)), mask, np.zeros(n))
    assert [path.suffix for path in write_structures(long, tmp_path)] == [".cif"]
    with pytest.raises(ValueError, match="10000"):
        pdb_text(long)
