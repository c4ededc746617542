"""How far two sets of arrays are apart, and the table that says where."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from unittest.mock import patch

import torch
from torch import Tensor

from foldline.model import templates
from foldline.model.all_atom import torsion_angles

Arrays = Mapping[str, Tensor]  # on the CPU, in float64


def on_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def worst_norm(ours: Arrays, exact: Arrays, floor: float = 0.0) -> float:
    """Largest norm of the difference of an array, relative to the norm of the exact one.

    Each norm counts as at least ``floor`` of the largest; a difference where the exact array is 0 counts as infinitely large without it.
    """
    assert set(ours) == set(exact)
    norms = {name: float(array.norm()) for name, array in exact.items()}
    least = max(1e-30, floor * max(norms.values(), default=0.0))
    return max((float((ours[name] - exact[name]).norm()) / max(norms[name], least) for name in exact), default=0.0)


def worst_element(ours: Arrays, theirs: Arrays) -> float:
    """Largest difference of an element, relative to max(1, |x|)."""
    assert set(ours) == set(theirs)
    return max(float(((ours[k] - theirs[k]).abs() / theirs[k].abs().clamp(min=1.0)).max()) for k in theirs)


def torsions_on_cpu() -> AbstractContextManager[object]:
    """Template torsions computed in float32 on the CPU for every device and precision.

    Where template atoms are missing three atoms can be collinear, and the torsion that the network is fed is what rounding makes of it.
    """

    def computed(aatype: Tensor, positions: Tensor, mask: Tensor) -> object:
        found = torsion_angles(aatype.cpu(), positions.float().cpu(), mask.float().cpu())
        return type(found)(*(x.to(positions.device, positions.dtype) for x in found))

    return patch.object(templates, "torsion_angles", computed)
