"""Structure metrics against programs that others wrote: TM-align by tmtools, lDDT and superposition by biotite; on real proteins.

Tolerances. lDDT: 1e-5, the same pairs and thresholds, float32 distances. RMSD: 1e-4 Å. TM-score: both programs search for the best
superposition; ours may fall short of TM-align's by 1e-3, and exceed what TM-align's gives over all pairs by 0.02 (where no fold is shared).
"""

from __future__ import annotations

from pathlib import Path

import biotite.structure as bs
import numpy as np
import pytest
import torch
from tmtools import tm_align
from torch import Tensor

from foldline.data_store.ingest import ingest
from foldline.data_store.residues import ATOM14_NAMES, ONE_TO_THREE
from foldline.data_store.store import Store
from foldline.data_store.types import ChainRecord
from foldline.model.all_atom import atom37_to_atom14
from foldline.model.lddt import lddt_all_atom
from foldline.model.metrics import gdt, kabsch_rmsd, lddt_ca, tm_score

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"
CHAINS = ("1ubq_A", "1bxy_A", "1gcc_A")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("data") / "store"
    ingest(DEMO, path)
    return Store.open(path)


def perturbed(record: ChainRecord, noise: float, bend: float) -> tuple[Tensor, Tensor, Tensor]:
    """(prediction, truth, mask) in atom14: atoms moved at random, and the chain turned about z more and more up to ``bend`` radian."""
    true, mask = atom37_to_atom14(
        torch.from_numpy(record.aatype).long(), torch.from_numpy(record.positions), torch.from_numpy(record.mask.astype(np.float32))
    )
    rng = np.random.default_rng(len(record.sequence))
    angle = torch.linspace(0, bend, len(true)).unsqueeze(-1)
    x, y, z = (true + torch.from_numpy(rng.normal(0, noise, true.shape)).float()).unbind(-1)
    turned = torch.stack((angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y, z), -1)
    return turned * mask.unsqueeze(-1), true, mask


def atoms(positions: Tensor, mask: Tensor, sequence: str) -> bs.AtomArray:
    """biotite's form of the atoms that ``mask`` names."""
    residue, slot = np.nonzero(mask.numpy() > 0)
    array = bs.AtomArray(len(residue))
    array.coord = positions.numpy()[residue, slot].astype(np.float32)
    array.res_id = residue + 1
    array.res_name = np.array([ONE_TO_THREE[sequence[i]] for i in residue])
    array.atom_name = np.array([ATOM14_NAMES["ARNDCQEGHILKMFPSTWYVX".index(sequence[i])][s] for i, s in zip(residue, slot, strict=True)])
    array.chain_id = np.full(len(residue), "A")
    return array


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize(("noise", "bend"), [(0.3, 0.0), (1.0, 0.5), (4.0, 2.0)])
def test_scores_are_those_of_tmtools_and_biotite(store: Store, chain: str, noise: float, bend: float) -> None:
    record = store.record(chain)
    predicted, true, mask = perturbed(record, noise, bend)
    theirs, ours = (atoms(true, mask, record.sequence), atoms(predicted, mask, record.sequence))
    all_atom = lddt_all_atom(predicted, true, mask)
    assert float(all_atom.mean) == pytest.approx(bs.lddt(theirs, ours), abs=1e-5)
    of_residue = bs.lddt(theirs, ours, aggregation="residue")
    np.testing.assert_allclose(all_atom.per_residue[mask.any(-1)].numpy(), of_residue, atol=1e-5)

    known = mask[:, 1] > 0
    ca, true_ca, ones = predicted[known, 1], true[known, 1], torch.ones(int(known.sum()))
    names = (theirs.atom_name == "CA", ours.atom_name == "CA")
    assert float(lddt_ca(ca, true_ca, ones).mean) == pytest.approx(bs.lddt(theirs[names[0]], ours[names[1]]), abs=1e-5)
    fitted, _ = bs.superimpose(theirs[names[0]], ours[names[1]])
    assert float(kabsch_rmsd(ca, true_ca, ones)) == pytest.approx(float(bs.rmsd(theirs[names[0]], fitted)), abs=1e-4)

    sequence = "".join(letter for letter, there in zip(record.sequence, known, strict=True) if there)
    aligned = tm_align(ca.double().numpy(), true_ca.double().numpy(), sequence, sequence, alignment=[sequence, sequence])
    # TM-align leaves out pairs that stay far apart; biotite counts all of them, here in TM-align's superposition.
    moved = ours[names[1]].copy()
    moved.coord = (moved.coord @ aligned.u.T + aligned.t).astype(np.float32)
    every = np.arange(len(ones))
    reached = bs.tm_score(theirs[names[0]], moved, every, every)
    assert max(aligned.tm_norm_chain2, reached) - 1e-3 <= float(tm_score(ca, true_ca, ones)) <= reached + 0.02


def exhaustive_gdt(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Largest share within each cutoff over fits on every window of 3, 5, 7, ... residues, each refitted on what came near."""
    best = np.zeros(5)
    cutoffs = np.array([0.5, 1.0, 2.0, 4.0, 8.0])
    for length in range(3, len(points) + 1, 2):
        for start in range(len(points) - length + 1):
            chosen = np.arange(start, start + length)
            for _ in range(4):
                a, b = points[chosen].mean(0), onto[chosen].mean(0)
                u, _, vt = np.linalg.svd((points[chosen] - a).T @ (onto[chosen] - b))
                u[:, -1] *= np.sign(np.linalg.det(u @ vt))
                distance = np.linalg.norm((points - a) @ (u @ vt) + b - onto, axis=-1)
                best = np.maximum(best, (distance[:, None] <= cutoffs).mean(0))
                if (distance <= 2.0).sum() < 3:
                    break
                chosen = np.flatnonzero(distance <= 2.0)
    return best


@pytest.mark.parametrize(("noise", "bend"), [(0.5, 0.3), (2.0, 1.5)])
def test_gdt_is_that_of_an_exhaustive_search(store: Store, noise: float, bend: float) -> None:
    """Within 0.02: half of one of 38 residues' four cutoffs."""
    predicted, true, mask = perturbed(store.record("1ajj_A"), noise, bend)
    known = mask[:, 1] > 0
    ca, true_ca = predicted[known, 1], true[known, 1]
    shares = exhaustive_gdt(ca.double().numpy(), true_ca.double().numpy())
    scores = gdt(ca, true_ca, torch.ones(len(ca)))
    assert float(scores.ts) == pytest.approx(shares[1:].mean(), abs=0.02)
    assert float(scores.ha) == pytest.approx(shares[:-1].mean(), abs=0.02)


def test_a_long_chain_needs_little_memory() -> None:
    """A thousand residues of 14 atoms: the arrays of a chunk, not 14,000 squared. torch's own peak, by what its CPU allocator hands out."""
    true = torch.cumsum(torch.randn(1000, 14, 3, generator=torch.Generator().manual_seed(0)), 0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        score = lddt_all_atom(true + 0.1, true, torch.ones(1000, 14))
    assert float(score.mean) == 1.0
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert 0 < peak < 256 * 2**20
