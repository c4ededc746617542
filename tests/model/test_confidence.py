"""Confidence from logits whose answer is known."""

from __future__ import annotations

import pytest
import torch

from foldline.model.confidence import compute_pae, compute_plddt, compute_ptm


def certain(bins: torch.Tensor, count: int) -> torch.Tensor:
    """Logits that put all probability on the given bins."""
    return 1e4 * torch.nn.functional.one_hot(bins, count).float()


def test_plddt_is_the_center_of_a_certain_bin() -> None:
    assert compute_plddt(certain(torch.tensor([0, 24, 49]), 50)).tolist() == pytest.approx([1.0, 49.0, 99.0])
    assert compute_plddt(torch.zeros(3, 50)).tolist() == pytest.approx([50.0] * 3)


def test_pae_is_the_center_of_a_certain_bin() -> None:
    error = compute_pae(certain(torch.tensor([[0, 1], [62, 63]]), 64))
    assert error.expected.flatten().tolist() == pytest.approx([0.25, 0.75, 31.25, 31.75])
    assert float(error.maximum) == pytest.approx(31.75)
    assert float(compute_pae(torch.zeros(1, 1, 10), max_error=16.0).maximum) == pytest.approx(19.0)


def test_ptm_of_certain_errors() -> None:
    """All errors in the first bin (0.25 Å), 30 residues: the definition of the TM-score with d0 of 30 residues."""
    d0 = 1.24 * 15 ** (1 / 3) - 1.8
    logits = certain(torch.zeros(30, 30, dtype=torch.int64), 64)
    assert float(compute_ptm(logits)) == pytest.approx(1 / (1 + (0.25 / d0) ** 2))
    assert float(compute_ptm(certain(torch.full((30, 30), 63), 64))) < 0.01


def test_ptm_takes_the_best_aligned_residue() -> None:
    bins = torch.full((30, 30), 63)
    bins[7] = 0
    all_good = compute_ptm(certain(torch.zeros(30, 30, dtype=torch.int64), 64))
    assert float(compute_ptm(certain(bins, 64))) == pytest.approx(float(all_good))


def test_padding_and_batches_change_nothing() -> None:
    logits = torch.randn(2, 25, 25, 64, generator=torch.Generator().manual_seed(1))
    alone = compute_ptm(logits[0])
    mask = (torch.arange(25) < 20).float()
    torch.testing.assert_close(compute_ptm(logits[0], mask=mask), compute_ptm(logits[0, :20, :20]))
    assert not torch.isclose(compute_ptm(logits[0], mask=mask), alone)
    torch.testing.assert_close(compute_ptm(logits), torch.stack((alone, compute_ptm(logits[1]))))
    assert compute_plddt(logits[..., :50].bfloat16()).dtype == torch.float32


def test_interface_score_counts_pairs_of_different_chains() -> None:
    chains = torch.tensor([0] * 10 + [1] * 15)
    bins = torch.where(chains[:, None] == chains, 63, 0)  # sure of where the chains stand, not of what is inside them
    logits = certain(bins, 64)
    assert float(compute_ptm(logits, asym_id=chains)) > 0.9
    assert float(compute_ptm(logits)) < 0.7
    assert float(compute_ptm(logits, asym_id=torch.zeros_like(chains))) == 0.0


@pytest.mark.parametrize("n", [1, 2])
def test_tiny_chains_are_finite(n: int) -> None:
    logits = torch.zeros(n, n, 64)
    assert compute_ptm(logits).isfinite()
    assert compute_ptm(logits, mask=torch.zeros(n)).isfinite()


def test_confidence_traces_with_dynamic_length() -> None:
    class Confidence(torch.nn.Module):
        def forward(self, plddt: torch.Tensor, pae: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return compute_plddt(plddt), *compute_pae(pae), compute_ptm(pae, mask=mask)

    def inputs(n: int) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(n)
        return torch.randn(n, 50, generator=generator), torch.randn(n, n, 64, generator=generator), torch.ones(n)

    n_res = torch.export.Dim("n_res", min=2, max=512)
    exported = torch.export.export(Confidence(), inputs(21), dynamic_shapes=({0: n_res}, {0: n_res, 1: n_res}, {0: n_res}))
    for ours, theirs in zip(exported.module()(*inputs(33)), Confidence()(*inputs(33)), strict=True):
        torch.testing.assert_close(ours, theirs)
