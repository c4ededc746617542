"""Rigid motions as a rotation matrix and a translation (AF2 supplement 1.1, Algorithms 21 and 23).

Everything here is element-wise: no matrix product that autocast could run in half precision, and no temporary larger than the result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Points = Float[Tensor, "*#batch 3"]
_NORM_EPSILON = 1e-8  # added to a squared length in ångström²: collinear or missing atoms give zeros, not NaN


class Rigid(NamedTuple):
    """x -> R x + t, one per leading index: ``rotations`` [*, 3, 3], ``translations`` [*, 3]."""

    rotations: Float[Tensor, "*batch 3 3"]
    translations: Float[Tensor, "*batch 3"]

    @classmethod
    def identity(cls, shape: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Rigid:
        """Unit rotations and zero translations of leading ``shape`` (integers; tensors while tracing)."""
        eye = torch.eye(3, dtype=dtype, device=device)
        return cls(eye.expand(*shape, 3, 3), torch.zeros(*shape, 3, dtype=dtype, device=device))

    @classmethod
    def from_axes(cls, x_axis: Points, xy_plane: Points, origin: Points) -> Rigid:
        """Frame at ``origin`` whose x axis points along ``x_axis`` and whose y axis lies towards ``xy_plane`` (Gram-Schmidt)."""
        e1 = _normalised(x_axis)
        e2 = _normalised(xy_plane - _dot(xy_plane, e1) * e1)
        return cls(torch.stack((e1, e2, _cross(e1, e2)), dim=-1), origin)

    @classmethod
    def from_3_points(cls, x1: Points, x2: Points, x3: Points) -> Rigid:
        """Frame at ``x2`` with ``x3`` on its positive x axis and ``x1`` in its xy plane (Algorithm 21; N, CA, C for a backbone)."""
        return cls.from_axes(x3 - x2, x1 - x2, x2)

    @classmethod
    def from_tensor_7(cls, tensor: Float[Tensor, "*batch 7"]) -> Rigid:
        """From quaternion (w, x, y, z) of any length but zero, then translation."""
        return cls(quaternion_to_rotation(tensor[..., :4]), tensor[..., 4:])

    def compose(self, other: Rigid) -> Rigid:
        """self after other: x -> self(other(x))."""
        return Rigid(multiply(self.rotations, other.rotations), self.apply(other.translations))

    def compose_update(self, update: Float[Tensor, "*batch 6"]) -> Rigid:
        """self after the small motion (b, c, d, tx, ty, tz) whose quaternion is (1, b, c, d) normalised (Algorithm 23)."""
        quaternion = torch.cat((torch.ones_like(update[..., :1]), update[..., :3]), dim=-1)
        return self.compose(Rigid(quaternion_to_rotation(quaternion), update[..., 3:]))

    def apply(self, points: Points) -> Points:
        """R x + t; ``points`` broadcast against the leading dimensions (use ``unsqueeze`` for several points per frame)."""
        return rotate(self.rotations, points) + self.translations

    def invert_apply(self, points: Points) -> Points:
        """R^T (x - t), the points in local coordinates."""
        return rotate(self.rotations.transpose(-1, -2), points - self.translations)

    def invert(self) -> Rigid:
        """The inverse motion."""
        transposed = self.rotations.transpose(-1, -2)
        return Rigid(transposed, -rotate(transposed, self.translations))

    def scale(self, factor: float) -> Rigid:
        """The same rotations, translations times ``factor``."""
        return Rigid(self.rotations, self.translations * factor)

    def unsqueeze(self, dim: int) -> Rigid:
        """A dimension of one at ``dim`` of the leading dimensions; -1 stands behind the last of them."""
        return Rigid(self.rotations.unsqueeze(dim - 2 if dim < 0 else dim), self.translations.unsqueeze(dim - 1 if dim < 0 else dim))

    def stop_rotation_gradient(self) -> Rigid:
        """The same motion; no gradient flows into the rotations (Algorithm 20, line 20)."""
        return Rigid(self.rotations.detach(), self.translations)


def rotate(rotations: Float[Tensor, "*#batch 3 3"], points: Points) -> Points:
    """R x for broadcastable leading dimensions."""
    x, y, z = points[..., 0:1], points[..., 1:2], points[..., 2:3]
    return rotations[..., 0] * x + rotations[..., 1] * y + rotations[..., 2] * z


def multiply(a: Float[Tensor, "*#batch 3 3"], b: Float[Tensor, "*#batch 3 3"]) -> Float[Tensor, "*#batch 3 3"]:
    """The matrix product a b of rotations."""
    return a[..., 0:1] * b[..., 0:1, :] + a[..., 1:2] * b[..., 1:2, :] + a[..., 2:3] * b[..., 2:3, :]


def quaternion_to_rotation(quaternion: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation of the quaternion (w, x, y, z) after normalising it."""
    w, x, y, z = (quaternion * torch.rsqrt(quaternion.square().sum(-1, keepdim=True))).unbind(-1)
    rows = (
        (w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _normalised(vectors: Points) -> Points:
    return vectors / rounded_sqrt(_dot(vectors, vectors) + _NORM_EPSILON)


def rounded_sqrt(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Square root rounded to the nearest number, for x > 0.

    Torch's own is one unit in the last place off for one number in six (CPU). Where three points are collinear the y axis is made of
    rounding errors, and such frames reach the network through undefined template torsions: they must not depend on the backend.
    """
    root = torch.sqrt(x)
    split = root * (134217729.0 if x.dtype == torch.float64 else 4097.0)  # halves of the significand, whose products are exact
    high = split - (split - root)
    low = root - high
    return root + (((x - high * high) - 2.0 * high * low) - low * low) / (2.0 * root)


def _dot(a: Points, b: Points) -> Float[Tensor, "*#batch 1"]:
    products = a * b
    return products[..., 0:1] + products[..., 1:2] + products[..., 2:3]


def _cross(a: Points, b: Points) -> Points:
    (a1, a2, a3), (b1, b2, b3) = a.unbind(-1), b.unbind(-1)
    return torch.stack((a2 * b3 - a3 * b2, a3 * b1 - a1 * b3, a1 * b2 - a2 * b1), dim=-1)
