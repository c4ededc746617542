"""Residue facts: types, atoms, rigid groups, ideal geometry (AF2 supplement 1.8.1, tables 2 and 3).

The tables live in residue_constants.json beside this file; here they become named numpy arrays. Indices follow AlphaFold2:
residue types 0..19 in the order of ``RESTYPES``, 20 = X (unknown), 21 = gap (MSA only); 37 atom types; 14 dense atom slots.
Lengths are in ångström, angles in radian.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

import numpy as np


@cache
def table(name: str) -> Any:
    """One raw table of residue_constants.json by its name."""
    return _tables()[name]


@cache
def _tables() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("residue_constants.json").read_text()
    return dict(json.loads(text))


RESTYPES: tuple[str, ...] = tuple(table("restypes"))
RESTYPES_X: tuple[str, ...] = (*RESTYPES, "X")
RESTYPES_X_GAP: tuple[str, ...] = (*RESTYPES_X, "-")
UNKNOWN, GAP = 20, 21
RESTYPE_INDEX: dict[str, int] = {r: i for i, r in enumerate(RESTYPES_X)}
ONE_TO_THREE: dict[str, str] = {**table("restype_1to3"), "X": "UNK"}
THREE_TO_ONE: dict[str, str] = dict(table("restype_3to1"))
RESNAMES: tuple[str, ...] = tuple(table("resnames"))

ATOM_TYPES: tuple[str, ...] = tuple(table("atom_types"))
ATOM_INDEX: dict[str, int] = {a: i for i, a in enumerate(ATOM_TYPES)}
N_ATOM37, N_ATOM14 = 37, 14
CA, CB = ATOM_INDEX["CA"], ATOM_INDEX["CB"]

# [21, 14] names of the dense atom slots ('' = no atom) and the masks of existing atoms.
ATOM14_NAMES: list[list[str]] = [list(table("restype_name_to_atom14_names")[name]) for name in RESNAMES]
ATOM14_MASK = np.array(table("restype_atom14_mask"), np.float32)
ATOM37_MASK = np.array(table("restype_atom37_mask"), np.float32)

# Rigid groups: 0 backbone, 1 pre-omega, 2 phi, 3 psi, 4..7 chi1..chi4.
ATOM14_TO_RIGID_GROUP = np.array(table("restype_atom14_to_rigid_group"), np.int64)
ATOM14_RIGID_POSITIONS = np.array(table("restype_atom14_rigid_group_positions"), np.float32)
RIGID_GROUP_DEFAULT_FRAME = np.array(table("restype_rigid_group_default_frame"), np.float32)

CHI_ATOM_INDICES = np.array([*table("chi_angles_atom_indices"), np.zeros((4, 4), int).tolist()], np.int64)
CHI_MASK = np.array([*table("chi_angles_mask"), [0.0] * 4], np.float32)
CHI_PI_PERIODIC = np.array(table("chi_pi_periodic"), np.float32)

RESIDUE_ATOM_SWAPS: dict[str, dict[str, str]] = dict(table("residue_atom_renaming_swaps"))
VDW_RADIUS: dict[str, float] = dict(table("van_der_waals_radius"))

# Peptide bond: (general, before proline) lengths and cosines with standard deviations.
C_N_LENGTH = tuple(table("between_res_bond_length_c_n"))
C_N_LENGTH_STDDEV = tuple(table("between_res_bond_length_stddev_c_n"))
COS_C_N_CA: tuple[float, float] = tuple(table("between_res_cos_angles_c_n_ca"))
COS_CA_C_N: tuple[float, float] = tuple(table("between_res_cos_angles_ca_c_n"))
CA_CA_DISTANCE: float = table("ca_ca")


def _atom_maps() -> tuple[np.ndarray, np.ndarray]:
    """([21, 14] atom37 index of each atom14 slot, [21, 37] atom14 slot of each atom37 index), 0 where there is none."""
    to37 = np.zeros((21, N_ATOM14), np.int64)
    to14 = np.zeros((21, N_ATOM37), np.int64)
    for residue, names in enumerate(ATOM14_NAMES):
        for slot, name in enumerate(names):
            if name:
                to37[residue, slot] = ATOM_INDEX[name]
                to14[residue, ATOM_INDEX[name]] = slot
    return to37, to14


ATOM14_TO_ATOM37, ATOM37_TO_ATOM14 = _atom_maps()


def encode_sequence(sequence: str) -> np.ndarray:
    """One-letter codes -> int8 residue types [N_res]; letters outside the twenty become 20 (X)."""
    return np.array([RESTYPE_INDEX.get(letter, UNKNOWN) for letter in sequence], np.int8)


def decode_sequence(aatype: np.ndarray) -> str:
    """Residue types [N_res] -> one-letter codes; 21 becomes '-'."""
    return "".join(RESTYPES_X_GAP[int(i)] for i in aatype)


def largest_share(aatype: np.ndarray) -> float:
    """The share of the most frequent residue type in a chain of at least one residue, 0..1 (AF2 supplement 1.2.5 drops those above 0.8)."""
    return float(np.bincount(aatype).max() / len(aatype))
