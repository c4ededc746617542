"""What cuEquivariance's nodes compute, as ONNX functions: the package's documented formulas, in the types of the nodes' inputs.

triangle_attention: softmax over k of (scale q·k + bias where the mask is true, -1e9 elsewhere), times v.
triangle_multiplicative_update: layer norm, projections times sigmoid gates times mask, packed with a's rows before b's;
sum over k of a[i, k] b[j, k] ("outgoing") or a[k, i] b[k, j] ("incoming"); layer norm, projection, times a sigmoid gate of the first norm.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from foldline.export.graphs import OPSET
from foldline.export.plugins import ATTENTION, DOMAIN, MULTIPLICATION

ATTENTION_TEXT = f"""
<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>
{ATTENTION} <scale, plugin_namespace> (q, k, v, bias, mask) => (o) {{
    turned = Transpose <perm = [0, 1, 2, 4, 3]> (k)
    product = MatMul (q, turned)
    wide = Cast <to = 1> (product)
    factor = Constant <value_float: float = @scale> ()
    scaled = Mul (wide, factor)
    biased = Add (scaled, bias)
    masked = Constant <value_float = -1e9> ()
    logits = Where (mask, biased, masked)
    shares = Softmax <axis = -1> (logits)
    typed = CastLike (shares, v)
    o = MatMul (typed, v)
}}
"""
LEFT_AND_RIGHT = {  # of the product over k, each [B, c, N, N]; from a and b [B, first node, second node, c]
    "outgoing": ("[0, 3, 1, 2]", "[0, 3, 2, 1]"),
    "incoming": ("[0, 3, 2, 1]", "[0, 3, 1, 2]"),
}


def multiplication_text(direction: str) -> str:
    """A function cannot branch on text, so each direction has one, named after it."""
    left, right = LEFT_AND_RIGHT[direction]
    parts = ("norm_in", "p_in", "g_in", "norm_out", "p_out", "g_out")
    weights = ", ".join(f"{part}_{kind}" for part in parts for kind in ("weight", "bias"))
    return f"""
<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>
{MULTIPLICATION}_{direction} <direction, eps, precision, valid_optional_inputs, plugin_namespace> (x, mask, {weights}) => (update) {{
    x_wide = Cast <to = 1> (x)
    x_norm = LayerNormalization <axis = -1, epsilon: float = @eps> (x_wide, norm_in_weight, norm_in_bias)
    x_in = CastLike (x_norm, x)
    p_turned = Transpose <perm = [1, 0]> (p_in_weight)
    p_product = MatMul (x_in, p_turned)
    p = Add (p_product, p_in_bias)
    g_turned = Transpose <perm = [1, 0]> (g_in_weight)
    g_product = MatMul (x_in, g_turned)
    g_sum = Add (g_product, g_in_bias)
    g = Sigmoid (g_sum)
    gated = Mul (p, g)
    last = Constant <value_ints = [3]> ()
    mask_column = Unsqueeze (mask, last)
    kept = Mul (gated, mask_column)
    halves = Constant <value_ints = [0, 0, 0, 2, -1]> ()
    both = Reshape (kept, halves)
    first = Constant <value_int = 0> ()
    second = Constant <value_int = 1> ()
    a = Gather <axis = 3> (both, first)
    b = Gather <axis = 3> (both, second)
    left = Transpose <perm = {left}> (a)
    right = Transpose <perm = {right}> (b)
    sum = MatMul (left, right)
    sum_last = Transpose <perm = [0, 2, 3, 1]> (sum)
    sum_wide = Cast <to = 1> (sum_last)
    sum_norm = LayerNormalization <axis = -1, epsilon: float = @eps> (sum_wide, norm_out_weight, norm_out_bias)
    x_out = CastLike (sum_norm, x)
    out_turned = Transpose <perm = [1, 0]> (p_out_weight)
    out_product = MatMul (x_out, out_turned)
    out = Add (out_product, p_out_bias)
    gate_turned = Transpose <perm = [1, 0]> (g_out_weight)
    gate_product = MatMul (x_in, gate_turned)
    gate_sum = Add (gate_product, g_out_bias)
    gate = Sigmoid (gate_sum)
    update = Mul (out, gate)
}}
"""


def with_definitions(graphs: Path) -> None:
    """Give every plugin node of the files in ``graphs`` its definition: any engine for plain nodes then runs them."""
    functions = [onnx.parser.parse_function(text) for text in (ATTENTION_TEXT, *map(multiplication_text, LEFT_AND_RIGHT))]
    for path in graphs.glob("*.onnx"):
        proto = onnx.load(path, load_external_data=False)
        for node in proto.graph.node:
            if node.domain == DOMAIN and node.op_type == MULTIPLICATION:
                (direction,) = (item.s.decode() for item in node.attribute if item.name == "direction")
                node.op_type = f"{MULTIPLICATION}_{direction}"
        if any(node.domain == DOMAIN for node in proto.graph.node):
            proto.functions.extend(functions)
        onnx.save(proto, path)
