"""The page and the PDB files show what was folded, superposed on the experiment."""

from __future__ import annotations

import json
import re
from pathlib import Path

import gemmi
import numpy as np
import pytest

from foldline.trainer.structures import FoldedChain, superposed, write_structures


@pytest.fixture
def chain() -> FoldedChain:
    """A prediction that is the experiment turned and moved, but for one residue; another has no experimental position."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(12, 3)) * 8
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn[:, 0] *= np.sign(np.linalg.det(turn))
    mask = np.ones(12)
    mask[5] = 0
    return FoldedChain("1abc_A", "validation", "ACDEFGHIKLMX", true @ turn + 5, true, mask, {"lDDT-Cα": 0.5, "RMSD (Å)": float("nan")})


def test_superposition_finds_the_turn_and_never_mirrors(chain: FoldedChain) -> None:
    assert superposed(chain.predicted, chain.true, chain.mask) == pytest.approx(chain.true, abs=1e-9)
    mirrored = superposed(chain.predicted * [1, 1, -1], chain.true, chain.mask)
    assert np.abs(mirrored - chain.true).max() > 1
    nowhere = superposed(np.full((12, 3), np.nan), chain.true, chain.mask)
    assert np.isnan(nowhere).all()


def test_files_hold_the_chains(chain: FoldedChain, tmp_path: Path) -> None:
    chain.predicted[3] += [0.0, 0.0, 9.0]
    write_structures(tmp_path, 40, [chain])
    model = gemmi.read_pdb(str(tmp_path / "structures" / "1abc_A.pdb"))[0]
    assert [len(part) for part in model] == [12, 11]
    assert [residue.name for residue in model["A"]][:2] == ["ALA", "CYS"]
    assert model["A"][11].name == "UNK"
    assert [residue.seqid.num for residue in model["B"]] == [1, 2, 3, 4, 5, *range(7, 13)]
    away = [residue[0].b_iso for residue in model["A"]]
    assert int(np.argmax(away)) == 3
    assert away[5] == 0
    page = (tmp_path / "structures.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    assert data["step"] == 40
    (shown,) = data["chains"]
    assert shown["true"][5] is None
    assert shown["predicted"][0] == pytest.approx([round(float(x), 2) for x in superposed(chain.predicted, chain.true, chain.mask)[0]])
    assert shown["scores"] == {"lDDT-Cα": 0.5, "RMSD (Å)": None}
    assert "http" not in page.replace("http-equiv", "")  # nothing is fetched
