"""Precision policies: what a built network computes in, by name, switched on from outside.

Only the trunk (everything before the structure module and the heads) ever leaves float32. Layer norms, softmax, the outer product mean
and distances stay in float32 inside it, by the way those modules are written; ``ISLANDS`` lists them. Read by the configuration before
torch is loaded, so types are names here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import FoldlineError

if TYPE_CHECKING:
    from torch import nn

    from .alphafold import AlphaFold


@dataclass(frozen=True)
class PrecisionPolicy:
    """The types of the trunk, as torch names them; all else is float32.

    ``products``: factors of matrix products. ``representations``: the MSA and pair representations that blocks add to.
    ``parameters``: weights, but for those of the islands.
    """

    name: str
    products: str
    representations: str
    parameters: str

    @property
    def trainable(self) -> bool:
        """Whether Adam sees float32 weights: its steps are smaller than the spacing of bfloat16."""
        return self.parameters == "float32"


FP32 = PrecisionPolicy("fp32", products="float32", representations="float32", parameters="float32")
BF16 = PrecisionPolicy("bf16", products="bfloat16", representations="float32", parameters="float32")
BF16_PURE = PrecisionPolicy("bf16-pure", products="bfloat16", representations="bfloat16", parameters="bfloat16")
POLICIES = {policy.name: policy for policy in (FP32, BF16, BF16_PURE)}

ISLANDS = (
    "layer norms",
    "softmax, with its logits' bias and mask",
    "outer product mean: sum over sequences, output layer, row count",
    "distances of recycled and template atoms",
    "structure module",
    "heads and confidence",
    "losses",
)


def find_policy(name: str) -> PrecisionPolicy:
    """The preset of that name. Raises FoldlineError for any other."""
    if name not in POLICIES:
        raise FoldlineError(f"precision {name!r} is none of {', '.join(POLICIES)}")
    return POLICIES[name]


def describe(policy: PrecisionPolicy) -> list[str]:
    """Lines that say which part of the network computes in what."""
    width = max(map(len, ISLANDS))
    trunk = (
        ("trunk: matrix products", policy.products),
        ("trunk: MSA and pair representations", policy.representations),
        ("trunk: parameters", policy.parameters),
    )
    rows = (*trunk, *((island, "float32") for island in ISLANDS))
    return [f"precision {policy.name}", *(f"  {what:{width}}  {dtype}" for what, dtype in rows)]


def apply_precision(model: AlphaFold, policy: PrecisionPolicy) -> None:
    """Make ``model`` compute by ``policy``, in place of any policy before; ``FP32`` leaves a new network as it is.

    Raises FoldlineError where the trunk's parameters are of another type than float32: ``BF16`` needs the full weights, and what
    ``BF16_PURE`` rounded off does not come back. Float64 networks (tests) take ``FP32``.
    """
    import torch

    from .remat import Blocks

    reduced = policy.products != "float32"
    trunk = _trunk_parameters(model)
    found = {parameter.dtype for parameter in trunk}
    if not found <= ({torch.float32} if reduced else {torch.float32, torch.float64}):
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        wanted = f"precision {policy.name!r} starts from float32 weights"
        raise FoldlineError(f"{wanted}, but the trunk's are {names}; load them into a new network")
    model.trunk_dtype = getattr(torch, policy.products) if reduced else None
    for module in model.modules():
        if isinstance(module, Blocks):
            module.state_dtype = getattr(torch, policy.representations) if reduced else None
    if reduced:
        for parameter in trunk:
            parameter.data = parameter.data.to(getattr(torch, policy.parameters))


def _trunk_parameters(model: AlphaFold) -> list[nn.Parameter]:
    """Parameters before the structure module and the heads, without those of the islands."""
    from .outer_product import OuterProductMean
    from .primitives import LayerNorm

    beyond = {*model.structure.modules(), *model.heads.modules()}
    kept = {module.linear_out for module in model.modules() if isinstance(module, OuterProductMean)}
    trunk = [m for m in model.modules() if m not in beyond and m not in kept and not isinstance(m, LayerNorm)]
    return [parameter for module in trunk for parameter in module.parameters(recurse=False)]
