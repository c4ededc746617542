"""Small networks with random weights and inputs with masks, for the laws of the trunk."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from foldline.model.config import EvoformerConfig

C_M, C_Z, C_S, N_SEQ, N_RES = 10, 12, 7, 6, 9
CONFIG = EvoformerConfig(
    blocks=3,
    c_hidden_msa_att=3,
    heads_msa=2,
    c_hidden_outer=4,
    c_hidden_tri_mul=5,
    c_hidden_tri_att=3,
    heads_tri=2,
    transition_factor=2,
)


M = TypeVar("M", bound=nn.Module)


def randomised(module: M, seed: int = 0) -> M:
    """``module`` in float64 and eval mode with every weight random, those that start at zero too."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.double().parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(noise / parameter.shape[-1] ** 0.5 if parameter.dim() > 1 else 1.0 + 0.3 * noise)
    return module.eval()


def inputs(seed: int = 1, batch: tuple[int, ...] = (), n_seq: int = N_SEQ, n_res: int = N_RES) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(m, z, msa_mask, pair_mask): the last row and the last two residues are masked, and some single MSA places."""
    generator = torch.Generator().manual_seed(seed)
    m = torch.randn(*batch, n_seq, n_res, C_M, generator=generator, dtype=torch.float64)
    z = torch.randn(*batch, n_res, n_res, C_Z, generator=generator, dtype=torch.float64)
    msa_mask = (torch.rand(*batch, n_seq, n_res, generator=generator) > 0.2).double()
    msa_mask[..., 0, :] = 1.0
    msa_mask[..., -1, :] = 0.0
    msa_mask[..., -2:] = 0.0
    seq_mask = torch.ones(n_res, dtype=torch.float64)
    seq_mask[-2:] = 0.0
    return m, z, msa_mask, (seq_mask[:, None] * seq_mask).expand(*batch, n_res, n_res)


def close(ours: Any, theirs: Any, atol: float = 1e-9) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=atol)
