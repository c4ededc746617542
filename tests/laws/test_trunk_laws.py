"""Laws of the trunk that hold whatever the weights: symmetries, masks, batches, chunks, checkpoints. In float64, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foldline.errors import FoldlineError
from foldline.model.chunk import Chunked, set_chunk_size
from foldline.model.evoformer import EvoformerBlock, EvoformerStack, ExtraMSAStack, PairCore
from foldline.model.primitives import Attention, DropoutShared
from foldline.model.remat import Blocks, checkpoint_blocks
from foldline.model.triangle import TriangleAttention, TriangleMultiplication
from foldline.tests.laws.trunk import C_M, C_S, C_Z, CONFIG, N_RES, close, inputs, randomised


def main_stack() -> Callable[..., tuple[Tensor, ...]]:
    return randomised(EvoformerStack(C_M, C_Z, C_S, CONFIG))


def extra_stack() -> Callable[..., tuple[Tensor, ...]]:
    stack = randomised(ExtraMSAStack(C_M, C_Z, CONFIG))
    return lambda *args: stack.blocks.run(args[:2], *args[2:])  # its MSA too


STACKS = pytest.mark.parametrize("make", [main_stack, extra_stack])


@torch.no_grad()
def test_incoming_is_outgoing_of_the_transposed_edges_with_the_roles_swapped() -> None:
    outgoing = randomised(TriangleMultiplication(C_Z, 5, "outgoing"))
    incoming = randomised(TriangleMultiplication(C_Z, 5, "incoming"), seed=9)
    swap = {"linear_a_": "linear_b_", "linear_b_": "linear_a_"}
    incoming.load_state_dict({swap.get(name[:9], name[:9]) + name[9:]: tensor for name, tensor in outgoing.state_dict().items()})
    _, z, _, _ = inputs()
    mask = (torch.rand(N_RES, N_RES, generator=torch.Generator().manual_seed(4)) > 0.3).double()
    close(outgoing(z, mask), incoming(z.transpose(0, 1), mask.T).transpose(0, 1))
    assert not torch.allclose(outgoing(z, mask), incoming(z, mask))


@torch.no_grad()
def test_ending_node_attention_is_starting_node_attention_of_the_transposed_edges() -> None:
    starting = randomised(TriangleAttention(C_Z, 3, 2, "starting"))
    ending = randomised(TriangleAttention(C_Z, 3, 2, "ending"))
    _, z, _, _ = inputs()
    mask = (torch.rand(N_RES, N_RES, generator=torch.Generator().manual_seed(4)) > 0.3).double()
    close(starting(z, mask), ending(z.transpose(0, 1), mask.T).transpose(0, 1))
    assert not torch.allclose(starting(z, mask), ending(z, mask))


@STACKS
@torch.no_grad()
def test_what_stands_at_masked_places_changes_nothing_elsewhere(make: Callable[[], Any]) -> None:
    run = make()
    m, z, msa_mask, pair_mask = inputs()
    other_m, other_z, _, _ = inputs(seed=2)
    one = run(m, z, msa_mask, pair_mask)
    hidden, unseen = msa_mask[..., None] == 0, pair_mask[..., None] == 0
    two = run(torch.where(hidden, other_m, m), torch.where(unseen, other_z, z), msa_mask, pair_mask)
    close(one[0].masked_fill(hidden, 0.0), two[0].masked_fill(hidden, 0.0))
    close(one[1].masked_fill(unseen, 0.0), two[1].masked_fill(unseen, 0.0))
    assert not torch.allclose(one[1], two[1])


@STACKS
@torch.no_grad()
def test_padding_changes_nothing(make: Callable[[], Any]) -> None:
    run = make()
    m, z, msa_mask, pair_mask = inputs()
    padded = run(m, z, msa_mask, pair_mask)
    cut = run(m[:-1, :-2], z[:-2, :-2], msa_mask[:-1, :-2], pair_mask[:-2, :-2])
    seen = msa_mask[:-1, :-2, None] > 0
    close(padded[0][:-1, :-2] * seen, cut[0] * seen)
    close(padded[1][:-2, :-2], cut[1])


@STACKS
@torch.no_grad()
def test_renumbering_residues_and_rows_renumbers_the_result(make: Callable[[], Any]) -> None:
    run = make()
    m, z, msa_mask, pair_mask = inputs()
    residues, rows = torch.randperm(N_RES, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 3, 1, 5, 4, 2])
    one = run(m, z, msa_mask, pair_mask)
    mixed = (m[rows][:, residues], z[residues][:, residues], msa_mask[rows][:, residues], pair_mask[residues][:, residues])
    two = run(*mixed)
    close(one[0][rows][:, residues], two[0])
    close(one[1][residues][:, residues], two[1])


@STACKS
@torch.no_grad()
def test_a_batch_is_its_samples(make: Callable[[], Any]) -> None:
    run = make()
    batch = inputs(batch=(2, 2))
    together = run(*batch)
    for i in range(2):
        for j in range(2):
            for all_of_them, one in zip(together, run(*(tensor[i, j] for tensor in batch)), strict=True):
                close(all_of_them[i, j], one)


@STACKS
@pytest.mark.parametrize("size", [1, 4, 100])
@torch.no_grad()
def test_chunks_change_nothing(make: Callable[[], Any], size: int) -> None:
    run = make()
    module = run if isinstance(run, nn.Module) else run.__closure__[0].cell_contents
    cases = [inputs(), inputs(batch=(2,))]
    whole = [run(*case) for case in cases]
    lengths: list[int] = []
    for part in module.modules():
        if isinstance(part, Attention):
            part.linear_q.register_forward_hook(lambda layer, arguments, result: lengths.append(arguments[0].shape[-3]))
    assert set_chunk_size(module, size) == sum(isinstance(part, Chunked) for part in module.modules()) > 0
    for case, expected in zip(cases, whole, strict=True):
        close(tuple(run(*case)), tuple(expected))
    assert max(lengths) <= size
    set_chunk_size(module, None)
    assert all(part.chunk_size is None for part in module.modules() if isinstance(part, Chunked))


def test_an_impossible_chunk_size_or_checkpoint_interval_is_refused() -> None:
    with pytest.raises(FoldlineError, match="chunk size 0"):
        set_chunk_size(nn.Identity(), 0)
    with pytest.raises(FoldlineError, match="-1 blocks"):
        checkpoint_blocks(nn.Identity(), -1)


@pytest.mark.parametrize("every", [1, 2, 5])
def test_checkpoints_change_neither_results_nor_gradients(every: int) -> None:
    stack = randomised(EvoformerStack(C_M, C_Z, C_S, CONFIG)).train()
    calls = [0]
    for block in stack.blocks:
        block.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))

    def run() -> tuple[list[Tensor], int]:
        torch.manual_seed(5)  # dropout is on
        calls[0] = 0
        leaves = [tensor.requires_grad_() for tensor in inputs()[:2]]
        stack.zero_grad()
        results = stack(*leaves, *inputs()[2:])
        sum(result.square().sum() for result in results).backward()
        return [*(r.detach() for r in results), *(x.grad for x in leaves), *(p.grad.clone() for p in stack.parameters())], calls[0]

    plain, once = run()
    assert checkpoint_blocks(stack, every) == 1
    recomputed, twice = run()
    assert (once, twice) == (CONFIG.blocks, 2 * CONFIG.blocks)
    for one, two in zip(plain, recomputed, strict=True):
        close(one, two)
    assert all(float(x.abs().sum()) > 0 for x in plain)
    stack.eval()
    assert run()[1] == CONFIG.blocks, "eval mode recomputes nothing"
    checkpoint_blocks(stack, 0)
    assert stack.train().blocks.checkpoint_every == 0
    assert run()[1] == CONFIG.blocks


def test_blocks_run_in_order_and_may_return_one_tensor() -> None:
    class Times(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: Tensor, shift: Tensor) -> Tensor:
            return x * self.factor + shift

    (result,) = Blocks([Times(2.0), Times(3.0)]).run((torch.tensor(1.0),), torch.tensor(10.0))
    assert float(result) == (1 * 2 + 10) * 3 + 10


@pytest.mark.parametrize("axis", [-3, -2])
def test_shared_dropout_drops_the_same_places_along_its_axis_only(axis: int) -> None:
    torch.manual_seed(0)
    dropout = DropoutShared(0.25, axis)
    x = torch.randn(2, 30, 40, 5)
    y = dropout(x)
    kept = y != 0
    assert torch.equal(kept, kept.narrow(axis, 0, 1).expand_as(kept))
    for other in {-4, -3, -2, -1} - {axis}:
        assert not torch.equal(kept, kept.narrow(other, 0, 1).expand_as(kept))
    torch.testing.assert_close(y[kept], x[kept] / 0.75)
    assert 0.6 < float(kept.float().mean()) < 0.9
    assert dropout.eval()(x) is x


def test_each_update_is_dropped_along_its_axis() -> None:
    """Rows for MSA row attention and three triangle updates, columns for the ending node (Algorithm 6)."""
    torch.manual_seed(0)
    block = randomised(EvoformerBlock(C_M, C_Z, CONFIG)).train()
    updates: dict[str, Tensor] = {}
    dropped: list[tuple[int, float, Tensor]] = []
    for name, part in block.named_modules():
        if isinstance(part, DropoutShared):
            part.register_forward_hook(lambda layer, args, result: dropped.append((layer.axis, layer.p, args[0])))
        elif "attention" in name or "multiplication" in name:
            part.register_forward_hook(lambda layer, args, result, name=name: updates.__setitem__(name, result))
    block(*inputs())
    expected = [
        ("row_attention", -3, CONFIG.dropout_msa),
        ("pair.triangle_multiplication_outgoing", -3, CONFIG.dropout_pair),
        ("pair.triangle_multiplication_incoming", -3, CONFIG.dropout_pair),
        ("pair.triangle_attention_starting", -3, CONFIG.dropout_pair),
        ("pair.triangle_attention_ending", -2, CONFIG.dropout_pair),
    ]
    assert [(axis, p) for axis, p, _ in dropped] == [(axis, p) for _, axis, p in expected]
    for (name, _, _), (_, _, update) in zip(expected, dropped, strict=True):
        assert update is updates[name]


@pytest.mark.parametrize("global_column", [False, True])
def test_a_new_block_is_the_identity(global_column: bool) -> None:
    """Every last layer starts at zero (supplement 1.11.4)."""
    block = EvoformerBlock(C_M, C_Z, CONFIG, global_column).double()
    m, z, msa_mask, pair_mask = inputs()
    new_m, new_z = block(m, z, msa_mask, pair_mask)
    assert torch.equal(new_m, m)
    assert torch.equal(new_z, z)


def test_the_template_order_puts_attention_first() -> None:
    order: list[str] = []
    for attention_first in (False, True):
        core = PairCore(C_Z, CONFIG, attention_first).double()
        for name, part in core.named_children():
            part.register_forward_hook(lambda *_, name=name: None if "dropout" in name else order.append(name))
        core(inputs()[1], inputs()[3])
    multiply, attend = order[:2], order[2:4]
    assert multiply == ["triangle_multiplication_outgoing", "triangle_multiplication_incoming"]
    assert attend == ["triangle_attention_starting", "triangle_attention_ending"]
    assert order == [*multiply, *attend, "transition", *attend, *multiply, "transition"]


@pytest.mark.parametrize("autocast", [False, True])
@STACKS
@torch.no_grad()
def test_bfloat16_runs_with_masks_in_float32(make: Callable[[], Any], autocast: bool) -> None:
    run = make()
    module = run if isinstance(run, nn.Module) else run.__closure__[0].cell_contents
    m, z, msa_mask, pair_mask = (tensor.float() for tensor in inputs())
    module.float()
    exact = run(m, z, msa_mask, pair_mask)
    if autocast:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = run(m, z, msa_mask, pair_mask)
    else:
        module.bfloat16()
        found = run(m.bfloat16(), z.bfloat16(), msa_mask, pair_mask)
        assert {x.dtype for x in found} == {torch.bfloat16}
    seen = pair_mask[..., None] > 0  # elsewhere a thousand times the output bias stands
    assert float(((found[1] - exact[1]) * seen).abs().max()) < 0.05 * float((exact[1] * seen).abs().max())
    assert float((found[0] - exact[0]).abs().max()) < 0.05 * float(exact[0].abs().max())
