"""Feature steps against DeepMind's feature dict after each of its transforms (folder ``features/tf_steps`` of the fixtures).

Steps that draw random numbers are taken from the folder; every other one is computed here from the state before it.
"""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest

from foldline.data_store.compact import fill_fields
from foldline.data_store.features.clusters import cluster_means, count_clusters, nearest_clusters, pack_rows
from foldline.data_store.features.masking import MASK_TOKEN
from foldline.data_store.features.msa import merge_msas, residue_profile, unique_rows
from foldline.data_store.features.msa_feat import PROFILE, deletion_value, fill_deletions, fill_msa_feat, make_target_feat
from foldline.data_store.features.templates import template_features
from foldline.data_store.residues import RESTYPES_X_GAP
from foldline.data_store.types import FeatureBatch, Msa, Templates, schema_of
from foldline.tests.reference.folder import REFERENCE

FEATURES = REFERENCE / "features"
HHBLITS_ORDER = "ACDEFGHIKLMNPQRSTVWYX-"
HHBLITS_LETTERS = {"B": "D", "Z": "E", "J": "X", "O": "X", "U": "C"}


@cache
def steps() -> dict[str, dict[str, np.ndarray]]:
    """Name of each step ('hhblits_profile') -> the whole feature dict after it, in the folder's order."""
    files = sorted((FEATURES / "tf_steps").glob("*.npz"))
    if not files:
        pytest.skip(f"no reference fixtures at {FEATURES}; set FOLDLINE_REFERENCE")
    state: dict[str, np.ndarray] = {}
    states = {}
    for file in files:
        with np.load(file) as changed:
            state = {**state, **{name: changed[name] for name in changed.files}}
        states[file.stem.split("_", 1)[1]] = state
    return states


def before(step: str) -> dict[str, np.ndarray]:
    names = list(steps())
    return steps()[names[names.index(step) - 1]]


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


def as_uint8(array: np.ndarray) -> np.ndarray:
    assert (array == array.astype(np.uint8)).all()
    return array.astype(np.uint8)


def test_profile_of_the_alignment() -> None:
    close(residue_profile(as_uint8(before("hhblits_profile")["msa"])), steps()["hhblits_profile"]["hhblits_profile"])


def test_nearest_clusters_are_equal() -> None:
    state = before("nearest_neighbor_clusters")
    assert (state["msa"] == MASK_TOKEN).any()
    assert (state["extra_msa_mask"] == 1).all()
    nearest = nearest_clusters(pack_rows(as_uint8(state["extra_msa"])), as_uint8(state["msa"]))
    np.testing.assert_array_equal(nearest, steps()["nearest_neighbor_clusters"]["extra_cluster_assignment"])


def test_cluster_profile_and_deletion_mean() -> None:
    state, after = before("summarize_clusters"), steps()["summarize_clusters"]
    counts = count_clusters(
        as_uint8(state["msa"]),
        as_uint8(state["deletion_matrix"]),
        as_uint8(state["extra_msa"]),
        as_uint8(state["extra_deletion_matrix"]),
        state["extra_cluster_assignment"].astype(np.int64),
    )
    profile, deletion_mean = cluster_means(counts)
    assert after["cluster_deletion_mean"].any()
    close(profile, after["cluster_profile"])
    close(deletion_mean, after["cluster_deletion_mean"])


def test_msa_feat_and_extra_deletions() -> None:
    state, after = before("msa_feat"), steps()["msa_feat"]
    feat = np.zeros(after["msa_feat"].shape, np.float32)
    feat[..., PROFILE] = state["cluster_profile"]
    fill_msa_feat(feat, as_uint8(state["msa"]), as_uint8(state["deletion_matrix"]), state["cluster_deletion_mean"])
    close(feat, after["msa_feat"])
    deletions = as_uint8(state["extra_deletion_matrix"])
    close(deletion_value(deletions), after["extra_deletion_value"])
    has_deletion, value = np.zeros((2, *deletions.shape), np.float32)
    fill_deletions(has_deletion, value, deletions)
    close(value, after["extra_deletion_value"])
    np.testing.assert_array_equal(has_deletion, after["extra_has_deletion"])


def test_target_feat() -> None:
    close(make_target_feat(before("msa_feat")["aatype"]), steps()["msa_feat"]["target_feat"])


def test_cropped_templates_and_fixed_sizes() -> None:
    state, after = before("crop"), steps()["fixed_size"]
    limit, size = len(after["template_mask"]), len(after["aatype"])
    start = state["residue_index"].tolist().index(after["residue_index"][0])
    window = slice(start, min(start + size, len(state["aatype"])))
    templates = Templates(state["template_aatype"].astype(np.int8), state["template_all_atom_positions"], state["template_all_atom_masks"])
    chosen = np.arange(min(len(state["template_aatype"]), limit))
    ours = template_features(templates, chosen, window, window.stop - window.start)
    same = [name for name in FeatureBatch._fields if name in after and name not in ours]
    columns = {name: (slice(None),) * schema_of(FeatureBatch)[name].dims.index("N_res") + (window,) for name in same}
    sizes = {"N_res": size, "N_clust": len(after["msa_mask"]), "N_extra": len(after["extra_msa"]), "N_templ": limit}
    batch = fill_fields(FeatureBatch, [ours | {name: state[name][columns[name]] for name in same}], sizes)
    theirs = {"template_positions": "template_all_atom_positions", "template_atom_mask": "template_all_atom_masks"}
    for name in (*same, *ours):
        np.testing.assert_array_equal(batch[name][0], after[theirs.get(name, name)], err_msg=name)


def test_merged_alignments_are_the_reference_rows() -> None:
    if not (FEATURES / "raw_features.json").exists():
        pytest.skip(f"no raw_features.json at {FEATURES}")
    parsed = json.loads((FEATURES / "parsers_msa.json").read_text())
    msas = []
    for name in json.loads((FEATURES / "raw_features.json").read_text())["order"]:
        letters = [[HHBLITS_LETTERS.get(letter, letter) for letter in sequence] for sequence in parsed[name]["sequences"]]
        rows = np.array([[RESTYPES_X_GAP.index(letter) for letter in row] for row in letters], np.uint8)
        msas.append(Msa(name, rows, np.array(parsed[name]["deletion_matrix"], np.uint8)))
    rows, deletions = merge_msas(unique_rows(msas))
    with np.load(FEATURES / "raw_features.npz") as raw:
        theirs, their_deletions = raw["msa_features/msa"], raw["msa_features/deletion_matrix_int"]
    to_ours = np.array([RESTYPES_X_GAP.index(letter) for letter in HHBLITS_ORDER])
    assert len(rows) < sum(len(m.rows) for m in msas)
    np.testing.assert_array_equal(rows, to_ours[theirs])
    np.testing.assert_array_equal(deletions, their_deletions)
