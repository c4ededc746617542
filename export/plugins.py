"""Triangle updates as single nodes of cuEquivariance's domain, for engines that have its TensorRT plugins.

A module is rewritten while it is traced and is itself again afterwards. Op types, order of inputs and attributes are those of the package's
own ONNX translations (``cuequivariance_ops_torch.onnx.op_table``, 0.13): ``triangle_attention_mask`` weighs values, its projections, gate
and output layer stay plain nodes; ``tri_mul_update`` is a whole triangle multiplication. Weights keep their names and types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..model.primitives import Attention
from ..model.triangle import TriangleAttention, TriangleMultiplication

DOMAIN = "cuequivariance"
DOMAIN_VERSION = 1
ATTENTION, MULTIPLICATION = "triangle_attention_mask", "tri_mul_update"
MULTIPLE = 32  # of the channels that the multiplication's kernels take
# Widest head that the attention's kernels take, and what it must be a multiple of.
HEADS = {torch.float32: (32, 4), torch.bfloat16: (128, 8), torch.float16: (128, 8)}
# ``precision`` of tri_mul_update: the package's numbers for "as the types say", and for float32 without TF32.
AS_TYPED, IEEE = -1, 3
ALL_INPUTS = 0b11111  # ``valid_optional_inputs``: mask and the four biases are there


@contextmanager
def plugin_nodes(module: nn.Module, products: torch.dtype) -> Iterator[None]:
    """While it lasts, tracing ``module`` gives plugin nodes for the triangle updates inside it that the kernels take.

    ``products``: the type of matrix products. Results computed meanwhile mean nothing: only the trace does.
    """
    replaced: list[nn.Module] = []
    try:
        for part, forward in _replacements(module, products):
            part.forward = forward
            replaced.append(part)
        yield
    finally:
        for part in replaced:
            del part.forward


def takes_any(module: nn.Module, products: torch.dtype) -> bool:
    """Whether the kernels take any triangle update inside ``module`` in this type."""
    return next(_replacements(module, products), None) is not None


def takes_attention(attention: Attention, products: torch.dtype) -> bool:
    """Whether the kernels take an attention of this head width in this type."""
    widest, multiple = HEADS[products]
    return attention.c_hidden <= widest and attention.c_hidden % multiple == 0


def takes_multiplication(part: TriangleMultiplication, products: torch.dtype) -> bool:
    """Whether the kernels take a multiplication of these widths in this type.

    Not in float16: the plugin narrows the products before the second layer norm, and they grow with the number of residues.
    """
    widths = part.linear_a_p.weight.shape
    return products != torch.float16 and all(width % MULTIPLE == 0 for width in widths)


def _replacements(module: nn.Module, products: torch.dtype) -> Iterator[tuple[nn.Module, Callable[..., Tensor]]]:
    for part in list(module.modules()):
        if isinstance(part, TriangleAttention) and takes_attention(part.attention, products):
            yield part.attention, partial(_attend, part.attention)
        elif isinstance(part, TriangleMultiplication) and takes_multiplication(part, products):
            yield part, partial(_multiply, part, products)


def _attend(attention: Attention, q_x: Tensor, kv_x: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
    """``Attention.forward`` around the node: q, k, v [B, R, H, N, c]; bias [B, 1, H, N, N], float32; mask [B, R, 1, 1, N], bool."""
    alone = q_x.dim() == 3  # without a batch

    def split(x: Tensor) -> Tensor:
        heads = x.reshape(*x.shape[:-1], attention.heads, attention.c_hidden).transpose(-2, -3)
        return heads.unsqueeze(0) if alone else heads

    q, k, v = split(attention.linear_q(q_x)), split(attention.linear_k(kv_x)), split(attention.linear_v(kv_x))
    shared = mask.unsqueeze(0) if alone else mask.expand(q.shape[0], -1, -1, -1, -1)
    o = _AttentionNode.apply(q, k, v, (bias.unsqueeze(0) if alone else bias).float(), shared != 0, attention.c_hidden**-0.5)
    o = (o.squeeze(0) if alone else o).transpose(-2, -3).flatten(-2)
    if attention.linear_g is not None:
        o = o * torch.sigmoid(attention.linear_g(q_x))
    return attention.linear_o(o)


def _multiply(part: TriangleMultiplication, products: torch.dtype, z: Tensor, pair_mask: Tensor) -> Tensor:
    """``TriangleMultiplication.forward`` as the node: x [B, N, N, c_z]; mask [B, N, N] of its type; a's weights before b's."""
    alone = z.dim() == 3
    x = z.to(products)
    mask = (pair_mask.unsqueeze(0) if alone else pair_mask.expand(z.shape[0], -1, -1)).to(products)
    update = _MultiplicationNode.apply(
        x.unsqueeze(0) if alone else x,
        mask,
        part.layer_norm_in.weight,
        part.layer_norm_in.bias,
        *_packed((part.linear_a_p, part.linear_b_p), products),
        *_packed((part.linear_a_g, part.linear_b_g), products),
        part.layer_norm_out.weight,
        part.layer_norm_out.bias,
        *_packed((part.linear_z,), products),
        *_packed((part.linear_g,), products),
        part.direction,
        part.layer_norm_in.eps,
        IEEE if products == torch.float32 else AS_TYPED,
    )
    return update.squeeze(0) if alone else update


def _packed(layers: tuple[nn.Linear, ...], products: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights and biases of linear layers, one below the other, in the type of products."""
    weights, biases = [layer.weight.to(products) for layer in layers], [layer.bias.to(products) for layer in layers]
    return (torch.cat(weights), torch.cat(biases)) if len(layers) > 1 else (weights[0], biases[0])


class _AttentionNode(torch.autograd.Function):
    """q, k, v, bias, mask, scale -> a tensor like q."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, *_: Any) -> Tensor:
        return torch.zeros_like(q)

    @staticmethod
    def symbolic(g: Any, q: Any, k: Any, v: Any, bias: Any, mask: Any, scale: float) -> Any:
        return g.op(f"{DOMAIN}::{ATTENTION}", q, k, v, bias, mask, scale_f=scale, plugin_namespace_s=DOMAIN).setType(q.type())


class _MultiplicationNode(torch.autograd.Function):
    """x, mask, twelve weights, direction, eps, precision -> a tensor like x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *_: Any) -> Tensor:
        return torch.zeros_like(x)

    @staticmethod
    def symbolic(g: Any, x: Any, *given: Any) -> Any:
        *tensors, direction, eps, precision = given
        return g.op(
            f"{DOMAIN}::{MULTIPLICATION}",
            x,
            *tensors,
            direction_s=direction,
            eps_f=eps,
            precision_i=precision,
            valid_optional_inputs_i=ALL_INPUTS,
            plugin_namespace_s=DOMAIN,
        ).setType(x.type())
