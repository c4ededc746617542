"""Laws of the template embedder: what must not matter (padding, order, pose) and what must."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from foldline.data_store.types import FeatureBatch
from foldline.model.chunk import set_chunk_size
from foldline.model.config import TemplateConfig
from foldline.model.remat import checkpoint_blocks
from foldline.model.templates import TemplateEmbedder
from foldline.tests.laws.trunk import C_M, C_Z, close, randomised

N_RES, N_TEMPL = 7, 3
CONFIG = TemplateConfig(
    c_t=6, blocks=2, c_hidden_tri_mul=5, c_hidden_tri_att=3, heads_tri=2, c_hidden_pointwise=3, heads_pointwise=2, bins=11, min_bin=1.0
)
UNIT_VECTORS = pytest.mark.parametrize("use_unit_vector", [False, True])


def embedder(use_unit_vector: bool = False) -> TemplateEmbedder:
    return randomised(TemplateEmbedder(C_Z, C_M, replace(CONFIG, use_unit_vector=use_unit_vector)))


def sample(batch: tuple[int, ...] = (), n_templ: int = N_TEMPL) -> tuple[Tensor, FeatureBatch]:
    """(z, features): random structures, some atoms missing, the last residue masked in the query."""
    generator = torch.Generator().manual_seed(0)
    shape = (*batch, n_templ, N_RES)
    z = torch.randn(*batch, N_RES, N_RES, C_Z, generator=generator, dtype=torch.float64)
    seq_mask = torch.ones(*batch, N_RES, dtype=torch.float64)
    seq_mask[..., -1] = 0
    fields: dict[str, Tensor] = dict.fromkeys(FeatureBatch._fields, torch.zeros(0)) | {
        "seq_mask": seq_mask,
        "template_aatype": torch.randint(0, 22, shape, generator=generator),
        "template_positions": 6 * torch.randn(*shape, 37, 3, generator=generator, dtype=torch.float64),
        "template_atom_mask": (torch.rand(*shape, 37, generator=generator) > 0.1).double(),
        "template_mask": torch.ones(*batch, n_templ, dtype=torch.float64),
    }
    return z, FeatureBatch(**fields)


@UNIT_VECTORS
@torch.no_grad()
def test_the_pose_of_a_template_does_not_matter(use_unit_vector: bool) -> None:
    module = embedder(use_unit_vector)
    z, batch = sample()
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    turn[:, 0] *= torch.linalg.det(turn)
    moved = batch._replace(template_positions=batch.template_positions @ turn + 20)
    close(module.pair(z, batch), module.pair(z, moved), atol=1e-7)
    mirrored = batch._replace(template_positions=-batch.template_positions)
    assert torch.allclose(module.pair(z, batch), module.pair(z, mirrored)) is not use_unit_vector, "only the vectors have a hand"


@UNIT_VECTORS
@torch.no_grad()
def test_a_masked_template_and_the_order_of_templates_do_not_matter(use_unit_vector: bool) -> None:
    module = embedder(use_unit_vector)
    z, batch = sample()
    two = batch._replace(template_mask=torch.tensor([1.0, 0.0, 1.0]).double())
    picked = torch.tensor([2, 0])
    fewer = batch._replace(**{name: getattr(batch, name)[picked] for name in FeatureBatch._fields if name.startswith("template_")})
    close(module.pair(z, two), module.pair(z, fewer))
    assert not torch.allclose(module.pair(z, two), module.pair(z, batch))


@pytest.mark.parametrize("n_templ", [0, 1, 2])
@torch.no_grad()
def test_without_a_valid_template_nothing_is_added(n_templ: int) -> None:
    module = embedder()
    z, batch = sample(n_templ=n_templ)
    none = batch._replace(template_mask=torch.zeros(n_templ).double())
    assert not module.pair(z, none).any()
    rows, mask = module.angles(none)
    assert rows.shape == (n_templ, N_RES, C_M)
    assert mask.shape == (n_templ, N_RES)


@torch.no_grad()
def test_pairs_without_backbone_look_like_empty_ones() -> None:
    module = embedder()
    z, batch = sample()
    mask = batch.template_atom_mask.clone()
    mask[:, 2, 1] = 0  # no CA
    lost = batch._replace(template_atom_mask=mask)
    moved = lost.template_positions.clone()
    moved[:, 2] += 3.0
    types = lost.template_aatype.clone()
    types[:, 2] = 5
    close(module.pair(z, lost), module.pair(z, lost._replace(template_positions=moved, template_aatype=types)))


@torch.no_grad()
def test_a_batch_is_its_samples() -> None:
    module = embedder()
    z, batch = sample(batch=(2,))
    together, (rows, mask) = module.pair(z, batch), module.angles(batch)
    for i in range(2):
        one = FeatureBatch(*(field[i] if field.dim() else field for field in batch._replace(**_empty(batch, 2))))
        close(together[i], module.pair(z[i], one))
        close((rows[i], mask[i]), module.angles(one))


def _empty(batch: FeatureBatch, size: int) -> dict[str, Tensor]:
    return {name: torch.zeros(size, 0) for name, field in batch._asdict().items() if not field.numel()}


def test_chunks_and_checkpoints_change_nothing() -> None:
    module = embedder()
    z, batch = sample(batch=(2,))
    z.requires_grad_()
    plain = module.pair(z, batch)
    (gradient,) = torch.autograd.grad(plain.square().sum(), z)
    assert set_chunk_size(module, 2) > 0
    close(module.pair(z, batch), plain)
    assert checkpoint_blocks(module, 1) == 1
    for dropout in (part for part in module.train().modules() if hasattr(part, "axis")):
        dropout.eval()
    again = module.pair(z, batch)
    close(again, plain)
    close(torch.autograd.grad(again.square().sum(), z)[0], gradient)


@torch.no_grad()
def test_torsion_rows_are_masked_by_psi() -> None:
    module = embedder()
    _, batch = sample()
    for atom, lost in ((0, True), (4, True), (3, False)):  # N, O, CB
        mask = torch.ones_like(batch.template_atom_mask)
        mask[0, 3, atom] = 0
        _, rows_mask = module.angles(batch._replace(template_atom_mask=mask))
        expected = torch.ones(N_TEMPL, N_RES, dtype=torch.float64)
        expected[0, 3] = 0.0 if lost else 1.0
        close(rows_mask, expected)


def test_torsion_rows_are_left_out_when_the_config_says_so() -> None:
    assert TemplateEmbedder(C_Z, C_M, replace(CONFIG, embed_torsion_angles=False)).angles is None
