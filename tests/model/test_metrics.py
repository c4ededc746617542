"""Structure metrics against formulas written out in numpy, known answers, and TM-align's own numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from foldline.model.metrics import drmsd, gdt, kabsch_rmsd, lddt_ca, tm_score
from foldline.model.superposition import superpose


def gdt_ts(*structures: Tensor) -> Tensor:
    return gdt(*structures).ts


def gdt_ha(*structures: Tensor) -> Tensor:
    return gdt(*structures).ha


SCORES = (tm_score, gdt_ts, gdt_ha)


def chain(seed: int, n: int, noise: float, bend: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(prediction, truth) [n, 3]: a smooth walk of 3.8 Å steps; the same with normal noise, turned more and more up to ``bend``."""
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.normal(0, 0.6, (n, 3)), 0)
    true = np.cumsum(3.8 * steps / np.linalg.norm(steps, axis=-1, keepdims=True), 0)
    x, y, z = (true + rng.normal(0, noise, true.shape)).T
    angle = bend * np.arange(n) / n
    return np.stack((np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y, z), -1), true


def tensors(seed: int, n: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    predicted, true = chain(seed, n, noise)
    return torch.from_numpy(predicted), torch.from_numpy(true), torch.ones(n, dtype=torch.float64)


def rigidly_moved(points: Tensor) -> Tensor:
    c, s = math.cos(1.1), math.sin(1.1)
    rotation = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=points.dtype)
    return points @ rotation + torch.tensor([5.0, -40.0, 12.0], dtype=points.dtype)


def quaternion_rmsd(predicted: np.ndarray, true: np.ndarray) -> float:
    """Least RMSD from the greatest eigenvalue of Horn's quaternion matrix: no singular vectors, no reflection to guard against."""
    a, b = predicted - predicted.mean(0), true - true.mean(0)
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = a.T @ b
    horn = np.array(
        [
            [xx + yy + zz, yz - zy, zx - xz, xy - yx],
            [yz - zy, xx - yy - zz, xy + yx, zx + xz],
            [zx - xz, xy + yx, yy - xx - zz, yz + zy],
            [xy - yx, zx + xz, yz + zy, zz - xx - yy],
        ]
    )
    return float(np.sqrt((np.square(a).sum() + np.square(b).sum() - 2 * np.linalg.eigvalsh(horn)[-1]) / len(a)))


@pytest.mark.parametrize(("seed", "n", "noise"), [(1, 5, 1.0), (2, 60, 0.5), (3, 150, 6.0)])
def test_kabsch_rmsd_is_the_least_one(seed: int, n: int, noise: float) -> None:
    predicted, true, mask = tensors(seed, n, noise)
    assert float(kabsch_rmsd(predicted, true, mask)) == pytest.approx(quaternion_rmsd(predicted.numpy(), true.numpy()), rel=1e-9)


def test_a_mirror_image_is_not_superposed() -> None:
    _, true, mask = tensors(4, 50, 0.0)
    image = true * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    assert float(kabsch_rmsd(image, true, mask)) == pytest.approx(quaternion_rmsd(image.numpy(), true.numpy()))
    assert float(kabsch_rmsd(image, true, mask)) > 1.0
    assert float(drmsd(image, true, mask)) == pytest.approx(0.0, abs=1e-9)
    assert float(lddt_ca(image, true, mask).mean) == 1.0


def test_drmsd_over_all_pairs() -> None:
    predicted, true = chain(5, 30, 1.0)
    pairs = [(i, j) for i in range(30) for j in range(i)]
    changes = [np.linalg.norm(predicted[i] - predicted[j]) - np.linalg.norm(true[i] - true[j]) for i, j in pairs]
    assert float(drmsd(*tensors(5, 30, 1.0))) == pytest.approx(np.sqrt(np.mean(np.square(changes))))


def test_lddt_counted_by_hand() -> None:
    predicted, true = chain(6, 100, 3.0)
    kept, total = np.zeros(100), np.zeros(100)
    for i in range(100):
        for j in range(100):
            distance = np.linalg.norm(true[i] - true[j])
            if i != j and distance < 15.0:
                change = abs(np.linalg.norm(predicted[i] - predicted[j]) - distance)
                kept[i] += sum(change < limit for limit in (0.5, 1.0, 2.0, 4.0)) / 4
                total[i] += 1
    score = lddt_ca(*tensors(6, 100, 3.0))
    np.testing.assert_allclose(score.per_residue.numpy(), kept / total, atol=1e-9)
    assert float(score.mean) == pytest.approx(kept.sum() / total.sum())


@pytest.mark.parametrize(("seed", "bend", "tm_align"), [(1, 0.3, 0.80470036), (2, 0.0, 0.87503141), (3, 0.0, 0.88451364)])
def test_tm_score_reaches_tm_aligns(seed: int, bend: float, tm_align: float) -> None:
    """``tm_align``: what tmtools 0.3.0 (Zhang's TM-align) gives for the same chains; the alignment it chose is residue to residue."""
    predicted, true = chain(seed, 80, 0.7, bend)
    ours = float(tm_score(torch.from_numpy(predicted), torch.from_numpy(true), torch.ones(80)))
    assert tm_align <= ours <= tm_align + 1e-3


def test_scores_find_the_superposition_of_the_largest_domain() -> None:
    """Three rigid domains in another arrangement: the last 25 of 70 residues fit exactly, all others are then far away."""
    _, true, mask = tensors(7, 70, 0.0)
    predicted = true.clone()
    predicted[22:45] = rigidly_moved(true[22:45]) + 300.0
    predicted[45:] = rigidly_moved(rigidly_moved(true[45:])) - 300.0
    assert float(kabsch_rmsd(predicted, true, mask)) > 100.0
    for score in SCORES:
        assert float(score(predicted, true, mask)) == pytest.approx(25 / 70, abs=1e-3)


def test_gdt_counts_each_cutoff() -> None:
    """Thirty residues 0.4 Å off in all directions pin the superposition; pairs of others stand 0.7, 1.5, 3 and 6 Å off."""
    _, true, mask = tensors(8, 38, 0.0)
    predicted = true.clone()
    for row in range(30):
        predicted[row, row % 3] += 0.4 * (-1) ** row
    for row, offset in zip(range(30, 38, 2), (0.7, 1.5, 3.0, 6.0), strict=True):
        predicted[row, 0] += offset
        predicted[row + 1, 0] -= offset
    shares = {0.5: 30, 1.0: 32, 2.0: 34, 4.0: 36, 8.0: 38}
    assert float(gdt_ts(predicted, true, mask)) == pytest.approx(np.mean([shares[c] / 38 for c in (1.0, 2.0, 4.0, 8.0)]))
    assert float(gdt_ha(predicted, true, mask)) == pytest.approx(np.mean([shares[c] / 38 for c in (0.5, 1.0, 2.0, 4.0)]))


@pytest.mark.parametrize("metric", [kabsch_rmsd, drmsd, *SCORES])
def test_rigid_motion_masked_residues_and_batches(metric) -> None:  # type: ignore[no-untyped-def]
    predicted, true, mask = tensors(9, 40, 1.0)
    value = metric(predicted, true, mask)
    assert float(metric(rigidly_moved(true), true, mask)) == pytest.approx(1.0 if metric in SCORES else 0.0, abs=1e-5)
    assert float(metric(rigidly_moved(predicted), true, mask)) == pytest.approx(float(value), abs=1e-2 if metric in SCORES else 1e-9)
    padded = [torch.cat((t, t.new_full((7, *t.shape[1:]), fill))) for t, fill in ((predicted, 900.0), (true, -3.0), (mask, 0.0))]
    torch.testing.assert_close(metric(*padded), value)
    both = metric(torch.stack((predicted, true)), torch.stack((true, true)), torch.stack((mask, mask)))
    torch.testing.assert_close(both, torch.stack((value, metric(true, true, mask))))
    assert metric(predicted.float(), true.float(), mask.float()).dtype == torch.float32


@pytest.mark.parametrize("metric", [kabsch_rmsd, drmsd, *SCORES])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_short_and_unknown_chains_are_finite(metric, n: int) -> None:  # type: ignore[no-untyped-def]
    predicted, true, mask = tensors(10, n, 1.0)
    assert metric(predicted, true, mask).isfinite()
    assert float(metric(predicted, true, torch.zeros_like(mask))) == 0.0
    assert lddt_ca(predicted, true, torch.zeros_like(mask)).mean.isfinite()


def test_weights_decide_what_is_superposed() -> None:
    predicted, true, _ = tensors(11, 30, 0.0)
    predicted[20:] += 50.0
    first = (torch.arange(30) < 20).double()
    moved = superpose(rigidly_moved(predicted), true, first)
    torch.testing.assert_close(moved[:20], true[:20], atol=1e-8, rtol=0)
    assert float((moved[20:] - true[20:]).norm(dim=-1).min()) > 10
