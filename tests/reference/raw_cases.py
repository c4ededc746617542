"""DeepMind's numbers for raw files (folder ``features`` of the fixtures) and the public input files that they were made from."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldline.data_store.parse.fasta import read_fasta
from foldline.tests.reference.folder import REFERENCE

FEATURES = REFERENCE / "features"
INPUTS = FEATURES / "inputs"


@cache
def stored(name: str) -> Any:
    """``name``.json of the fixtures; {} where the folder lacks it."""
    path = FEATURES / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def members(name: str) -> list[str]:
    """The arrays in ``name``.npz of the fixtures, none where the folder lacks it."""
    path = FEATURES / f"{name}.npz"
    if not path.exists():
        return []
    with np.load(path) as arrays:
        return sorted(arrays.files)


def need(cases: dict[str, Any], what: str) -> list[Any]:
    """The values of ``cases`` under their names to parametrize with, or one that is skipped and says what is missing."""
    found = [pytest.param(value, id=name) for name, value in cases.items()]
    return found or [pytest.param(None, marks=pytest.mark.skip(reason=f"no {what} at {FEATURES}; set FOLDLINE_REFERENCE"))]


def structure_file(pdb_id: str) -> Path:
    """The mmCIF file of an entry, plain or packed."""
    return next(path for path in (INPUTS / f"{pdb_id}.cif", INPUTS / f"{pdb_id}.cif.gz") if path.exists())


def query() -> str:
    """The query of the alignments and template hits."""
    ((_, sequence),) = read_fasta(INPUTS / "query.fasta")
    return sequence
