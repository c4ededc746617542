"""Structures and template features against DeepMind's: chains, residue numbering, atoms, and the ten hits under two date limits."""

from __future__ import annotations

from typing import Any

import gemmi
import numpy as np
import pytest

from foldline.data_store.parse.hhr import read_hhr
from foldline.data_store.parse.structure import read_structure
from foldline.data_store.residues import ATOM_INDEX, ATOM_TYPES, THREE_TO_ONE, decode_sequence
from foldline.data_store.templates.featurize import build_templates
from foldline.data_store.templates.hit import TemplateHit
from foldline.data_store.templates.limits import TemplateLimits
from foldline.data_store.templates.structures import TemplateStructures
from foldline.data_store.types import Templates
from foldline.tests.reference.raw_cases import FEATURES, INPUTS, members, need, query, stored, structure_file

ENTRIES = {name: name for name in stored("mmcif_parsing")}
HITS = {f"{hit['pdb']}_{hit['chain']}": hit for hit in stored("template_hits")}
ATOMS = {key.split("/")[0]: key.split("/")[0] for key in members("mmcif_atoms")}
DATES = {"default": "", "cutoff_2009": "2009-01-01"}
# DeepMind keeps the second oxygen of a chain's last residue; it belongs to no residue type and no feature of the network reads it.
OXT = ATOM_INDEX["OXT"]
HHBLITS_ORDER = "ACDEFGHIKLMNPQRSTVWYX-"


def same_atoms(positions: np.ndarray, mask: np.ndarray, theirs: np.ndarray, their_mask: np.ndarray) -> None:
    """Every atom but OXT equal to the last bit of float32; OXT at most once, and never ours."""
    assert not mask[..., OXT].any()
    assert their_mask[..., OXT].sum() <= 1
    others = np.arange(len(ATOM_TYPES)) != OXT
    np.testing.assert_array_equal(mask[:, others], their_mask[:, others])
    np.testing.assert_array_equal(positions[:, others], theirs.astype(np.float32)[:, others])


@pytest.mark.parametrize("pdb_id", need(ENTRIES, "mmcif_parsing.json"))
def test_header_and_sequences(pdb_id: str) -> None:
    theirs, ours = stored("mmcif_parsing")[pdb_id], read_structure(structure_file(pdb_id))
    header = theirs["header"]
    assert (ours.release_date, ours.resolution) == (header["release_date"], header["resolution"])
    assert ours.method.lower() == header["structure_method"]
    assert {name: chain.sequence for name, chain in ours.chains.items()} == theirs["chain_to_seqres"]


@pytest.mark.parametrize("pdb_id", need(ENTRIES, "mmcif_parsing.json"))
def test_each_place_of_the_sequence_holds_the_residue_of_their_author_number(pdb_id: str) -> None:
    ours, raw = read_structure(structure_file(pdb_id)), gemmi.read_structure(str(structure_file(pdb_id)))
    raw.remove_ligands_and_waters()
    for name, rows in stored("mmcif_parsing")[pdb_id]["seqres_to_structure"].items():
        chain = ours.chains[name]
        assert [row[0] for row in rows] == list(range(len(chain.sequence)))
        numbered = {str(residue.seqid): residue for part in raw[0] if part.name == name for residue in part}
        for place, number, insertion, residue_name, missing, het in rows:
            assert chain.mask[place].any() == (not missing)
            assert THREE_TO_ONE.get(residue_name, "M" if residue_name == "MSE" else "X") == chain.sequence[place]
            if not missing:
                residue = numbered[f"{number}{insertion.strip()}"]
                assert residue.name == residue_name
                assert (residue.het_flag == "H") == het.startswith("H")
                place_of_ca = np.array(residue.find_atom("CA", "*").pos.tolist(), np.float32)
                np.testing.assert_array_equal(chain.positions[place, ATOM_INDEX["CA"]], place_of_ca)


@pytest.mark.parametrize("name", need(ATOMS, "mmcif_atoms.npz"))
def test_atoms(name: str) -> None:
    pdb_id, chain_id = name.split("_")
    chain = read_structure(structure_file(pdb_id)).chains[chain_id]
    with np.load(FEATURES / "mmcif_atoms.npz") as theirs:
        same_atoms(chain.positions, chain.mask, theirs[f"{name}/all_atom_positions"], theirs[f"{name}/all_atom_mask"])


def ours(theirs: dict[str, Any], date: str) -> tuple[TemplateHit, Templates, tuple[str, ...]]:
    hit = read_hhr(INPUTS / "pdb70_hits.hhr")[theirs["index"] - 1]
    return hit, *build_templates(query(), [hit], TemplateStructures(INPUTS), TemplateLimits(max_release_date=date))


@pytest.mark.parametrize("theirs", need(HITS, "template_hits.json"))
class TestHits:
    def test_mapping(self, theirs: dict[str, Any]) -> None:
        hit, _, _ = ours(theirs, "")
        assert (hit.pdb_id, hit.chain) == (theirs["pdb"], theirs["chain"])
        assert hit.pairs().tolist() == theirs["query_to_hit_mapping"]

    def test_features(self, theirs: dict[str, Any]) -> None:
        _, templates, notes = ours(theirs, "")
        if not theirs["default"]["accepted"]:
            assert len(templates.aatype) == 0
            return
        with np.load(FEATURES / "template_hits.npz") as arrays:
            wanted = {name.split("/")[1]: arrays[name] for name in arrays.files if name.startswith(f"hit{theirs['index']}/")}
        assert templates.names == (theirs["template_domain_names"],)
        assert decode_sequence(templates.aatype[0]) == theirs["template_sequence"]
        assert decode_sequence(templates.aatype[0]) == "".join(HHBLITS_ORDER[i] for i in wanted["template_aatype"].argmax(-1))
        np.testing.assert_array_equal(templates.sum_probs, wanted["template_sum_probs"])
        same_atoms(
            templates.positions[0], templates.mask[0], wanted["template_all_atom_positions"], wanted["template_all_atom_masks"].astype(int)
        )
        assert notes == ()

    @pytest.mark.parametrize("cut_off", DATES)
    def test_accepted_and_why_not(self, theirs: dict[str, Any], cut_off: str) -> None:
        """Theirs are warnings, errors, or silence where a date refuses; ours is one note with the reason."""
        _, templates, notes = ours(theirs, DATES[cut_off])
        verdict = theirs[cut_off]
        assert len(templates.aatype) == int(verdict["accepted"])
        assert verdict["error"] is None
        assert len(notes) == int(not verdict["accepted"])
        if verdict["warning"]:
            reasons = {"No chains in PDB": "no file of entry", "mask was all zeros": "none of its aligned residues is observed"}
            (reason,) = (reason for phrase, reason in reasons.items() if phrase in verdict["warning"])
            assert reason in notes[0]
        elif not verdict["accepted"]:
            assert f"after {DATES[cut_off]}" in notes[0]


@pytest.mark.parametrize("cut_off", need({name: name for name in DATES} if HITS else {}, "template_hits.json"))
def test_all_hits_at_once_are_the_accepted_ones_by_falling_sum_probs(cut_off: str) -> None:
    hits = [hit for hit in read_hhr(INPUTS / "pdb70_hits.hhr") if hit.index in {theirs["index"] for theirs in HITS.values()}]
    templates, _ = build_templates(query(), hits, TemplateStructures(INPUTS), TemplateLimits(max_release_date=DATES[cut_off]))
    accepted = {theirs["index"] for theirs in HITS.values() if theirs[cut_off]["accepted"]}
    expected = sorted((hit for hit in hits if hit.index in accepted), key=lambda hit: hit.sum_probs or 0.0, reverse=True)
    assert templates.names == tuple(hit.label for hit in expected)
    assert (np.diff(templates.sum_probs) <= 0).all()
