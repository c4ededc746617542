"""Laws of the building blocks and embedders: initialisation, precision, relative positions, distance bins."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from foldline.errors import FoldlineError
from foldline.model.config import EmbedderConfig
from foldline.model.embedders import ExtraMSAEmbedder, InputEmbedder, RecyclingEmbedder, RelativePosition, distance_bins, one_hot
from foldline.model.outputs import Recycled
from foldline.model.primitives import Attention, GlobalAttention, LayerNorm, Linear
from foldline.tests.laws.trunk import close, randomised

CHAINS = EmbedderConfig(use_chain_relative=True)


@pytest.mark.parametrize(("init", "variance"), [("default", 1 / 400), ("relu", 2 / 400), ("normal", 1 / 400), ("glorot", 2 / (400 + 300))])
def test_weights_start_with_the_supplements_variance(init: str, variance: float) -> None:
    torch.manual_seed(0)
    layer = Linear(400, 300, init=init)
    weight = layer.weight.detach()
    assert float(weight.var()) == pytest.approx(variance, rel=0.02)
    assert abs(float(weight.mean())) < 3 * (variance / weight.numel()) ** 0.5
    assert not layer.bias.any()
    sigmas = float(weight.abs().max()) / variance**0.5
    assert sigmas > 3.5 if init == "normal" else sigmas < 2.3, "the truncated and the uniform one have no tails"


def test_gates_start_open_and_last_layers_at_zero() -> None:
    attention = Attention(8, 8, 4, 2)
    for part in (attention, GlobalAttention(8, 4, 2)):
        assert not part.linear_g.weight.any()
        assert bool((part.linear_g.bias == 1).all())
        assert not part.linear_o.weight.any()
        assert part.linear_q.bias is part.linear_k.bias is part.linear_v.bias is None
    x = torch.randn(3, 5, 8)
    assert not attention(x, x).any()


def test_layer_norm_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    norm = randomised(LayerNorm(64)).float()
    x = (torch.randn(50, 64) + 300).bfloat16()  # in bfloat16 the mean alone would be off by one
    found = norm.bfloat16()(x)
    assert found.dtype == torch.bfloat16
    exact = LayerNorm(64).double()
    exact.load_state_dict(norm.state_dict())
    torch.testing.assert_close(found.double(), exact(x.double()), rtol=1e-2, atol=1e-2)


def test_a_query_without_keys_attends_uniformly() -> None:
    attention = randomised(Attention(6, 6, 4, 2))
    x = torch.randn(3, 5, 6, dtype=torch.float64)
    mask = torch.ones(3, 1, 1, 5, dtype=torch.float64)
    mask[1] = 0
    x.requires_grad_()
    found = attention(x, x, mask)
    found.sum().backward()
    assert bool(torch.isfinite(x.grad).all())
    with torch.no_grad():
        attention.linear_q.weight.zero_()
        close(found[1], attention(x, x)[1])


def test_residues_further_apart_than_the_limit_look_the_same() -> None:
    module = randomised(RelativePosition(5, EmbedderConfig(max_relative=4)))
    z = module(torch.tensor([0, 1, 4, 5, 9, 200]))
    close(z[0, 3], z[0, 5])  # -5 and -200
    close(z[0, 2], z[0, 3])  # -4 and -5
    assert not torch.allclose(z[0, 1], z[0, 2])
    assert not torch.allclose(z[0, 5], z[5, 0]), "the direction counts"
    close(z, module(torch.tensor([0, 1, 4, 5, 9, 200]) + 77))
    close(module(torch.tensor([0, 4])), module.linear.bias + module.linear.weight.T[torch.tensor([[4, 0], [8, 4]])])


def test_chain_relative_positions_tell_chains_and_copies_apart() -> None:
    module = randomised(RelativePosition(5, CHAINS))
    index = torch.tensor([0, 1, 0, 1, 0])
    asym, entity, sym = torch.tensor([1, 1, 2, 2, 3]), torch.tensor([1, 1, 1, 1, 2]), torch.tensor([1, 1, 2, 2, 1])
    z = module(index, (asym, entity, sym))
    close(z[0, 2], z[0, 3])  # another chain: the residue number does not count
    close(z[0, 1], z[2, 3])
    assert not torch.allclose(z[0, 2], z[0, 4]), "copy of the same sequence against another sequence"
    assert not torch.allclose(z[0, 2], z[2, 0]), "the order of copies counts"
    far = module(index, (asym, entity, torch.tensor([1, 1, 30, 30, 1])))
    close(far[0, 2], module(index, (asym, entity, torch.tensor([1, 1, 3, 3, 1])))[0, 2])  # clipped at 2
    assert module.linear.in_features == 66 + 1 + 6
    with pytest.raises(FoldlineError, match="asym_id"):
        module(index)


def test_chains_are_read_by_the_input_embedder_only_when_asked() -> None:
    target, msa, index = torch.randn(5, 22).double(), torch.randn(3, 5, 49).double(), torch.arange(5)
    chains = tuple(torch.tensor([1, 1, 2, 2, 2]) for _ in range(3))
    plain = randomised(InputEmbedder(4, 6, EmbedderConfig()))
    close(plain(target, index, msa), plain(target, index, msa, chains))
    relative = randomised(InputEmbedder(4, 6, CHAINS))
    one_chain = tuple(torch.ones(5).long() for _ in range(3))
    assert not torch.allclose(relative(target, index, msa, chains)[1], relative(target, index, msa, one_chain)[1])


def test_distance_bins_start_at_their_edges_and_the_last_is_open() -> None:
    x = torch.tensor([[0.0, 0, 0], [3.0, 0, 0], [0, 4.0, 0], [0, 0, 900.0]]).double()
    bins = distance_bins(x, 2.0, 6.0, 5)  # 2-3, 3-4, 4-5, 5-6, > 6
    assert bins[0, 0].tolist() == [0] * 5, "nearer than the first edge"
    assert bins[0, 1].tolist() == bins[0, 2].tolist() == [0] * 5, "exactly on an edge"
    assert bins[0, 3].tolist() == [0, 0, 0, 0, 1]
    close(distance_bins(x * 0.9, 2.0, 6.0, 5)[1, 2], torch.tensor([0.0, 0, 1, 0, 0]).double())  # 4.5
    close(bins, bins.transpose(0, 1))


def test_recycling_zeros_gives_the_offsets_of_the_norms() -> None:
    module = randomised(RecyclingEmbedder(4, 6, EmbedderConfig()))
    zeros = torch.zeros(3, 3, 6).double()
    m_update, z_update = module(Recycled(zeros[0, :, :4], zeros, zeros[0, :, :3]))
    close(m_update, module.layer_norm_m.bias.expand(3, 4))
    close(z_update, (module.layer_norm_z.bias + module.linear_d.bias).expand(3, 3, 6))


def test_recycling_does_not_see_the_pose() -> None:
    module = randomised(RecyclingEmbedder(4, 6, EmbedderConfig()))
    torch.manual_seed(0)
    recycled = Recycled(torch.randn(7, 4).double(), torch.randn(7, 7, 6).double(), 8 * torch.randn(7, 3).double())
    turn, _ = torch.linalg.qr(torch.randn(3, 3).double())
    moved = recycled._replace(x=recycled.x @ turn + 50)
    for one, two in zip(module(recycled), module(moved), strict=True):
        close(one, two)
    assert not torch.allclose(module(recycled)[1], module(recycled._replace(x=2 * recycled.x))[1])


def test_one_hot_of_a_class_outside_is_zero() -> None:
    assert one_hot(torch.tensor([0, 2, 3, -1]), 3, torch.zeros(0)).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_extra_msa_embedding_reads_residue_and_deletions() -> None:
    module: nn.Module = randomised(ExtraMSAEmbedder(4))
    msa = torch.tensor([[0, 22]])
    has, value = torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[0.0, 0.5]]).double()
    weight, bias = module.linear.weight, module.linear.bias
    close(module(msa, has, value)[0, 0], weight[:, 0] + bias)
    close(module(msa, has, value)[0, 1], weight[:, 22] + weight[:, 23] + 0.5 * weight[:, 24] + bias)


def test_sizes_of_the_relative_position_follow_the_config() -> None:
    for limit in (1, 32):
        assert RelativePosition(3, EmbedderConfig(max_relative=limit)).linear.in_features == 2 * limit + 1
        wide = replace(CHAINS, max_relative=limit, max_relative_chain=1)
        assert RelativePosition(3, wide).linear.in_features == (2 * limit + 2) + 1 + 4
