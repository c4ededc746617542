"""The structure module (AF2 supplement 1.8, Algorithms 20, 23 and 24): single and pair representation -> atoms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .all_atom import atom14_to_atom37
from .config import StructureConfig
from .frames import frames_to_atom14, torsion_angles_to_frames
from .ipa import InvariantPointAttention
from .outputs import StructureOutput
from .primitives import LayerNorm, Linear, without_autocast
from .rigid import Rigid

_NORM_EPSILON = 1e-12  # the least squared length that a (sin, cos) pair is divided by


class AngleResnetBlock(nn.Module):
    """Residual block of two linear layers (Algorithm 20, lines 12-13)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.linear_1 = Linear(c, c, init="relu")
        self.linear_2 = Linear(c, c, init="final")

    def forward(self, a: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        return a + self.linear_2(torch.relu(self.linear_1(torch.relu(a))))


class AngleResnet(nn.Module):
    """Torsion angles from a residue's activation and its first one (Algorithm 20, lines 11-14)."""

    def __init__(self, c_s: int, c_initial: int, c_hidden: int, blocks: int) -> None:
        super().__init__()
        self.linear_s = Linear(c_s, c_hidden)
        self.linear_initial = Linear(c_initial, c_hidden)
        self.blocks = nn.ModuleList(AngleResnetBlock(c_hidden) for _ in range(blocks))
        self.linear_out = Linear(c_hidden, 14)

    def forward(self, s: Float[Tensor, "*b c_s"], s_initial: Float[Tensor, "*b c_initial"]) -> Float[Tensor, "*b 7 2"]:
        """(sin, cos) of the seven torsions, not yet of length one."""
        a = self.linear_s(torch.relu(s)) + self.linear_initial(torch.relu(s_initial))
        for block in self.blocks:
            a = block(a)
        a = self.linear_out(torch.relu(a))
        return a.reshape(*a.shape[:-1], 7, 2)


class Atoms(NamedTuple):
    """Torsions and atoms of one iteration, with the fields of ``StructureOutput`` that have its name; ångström."""

    rotations: Tensor
    translations: Tensor
    angles: Tensor
    unnormalized_angles: Tensor
    frame_rotations: Tensor
    frame_translations: Tensor
    atom14: Tensor


class StructureModule(nn.Module):
    """Residues start at the origin, all alike, and move in ``config.iterations`` steps that share their weights (Algorithm 20).

    ``c_structure`` is the width of the module's own activation, ``c_s`` unless given. Computes in the type of its parameters, which must
    be float32 or wider: autocast is off inside, and inputs of half precision are widened.
    """

    def __init__(self, c_s: int, c_z: int, config: StructureConfig, c_structure: int | None = None) -> None:
        super().__init__()
        c = c_s if c_structure is None else c_structure
        self.config = config
        self.layer_norm_s = LayerNorm(c_s)
        self.layer_norm_z = LayerNorm(c_z)
        self.linear_in = Linear(c_s, c)
        self.ipa = InvariantPointAttention(c, c_z, config)
        self.layer_norm_ipa = LayerNorm(c)
        last = config.transition_layers - 1
        self.transition = nn.ModuleList(Linear(c, c, init="final" if i == last else "relu") for i in range(config.transition_layers))
        self.layer_norm_transition = LayerNorm(c)
        self.dropout = nn.Dropout(config.dropout)
        self.backbone_update = Linear(c, 6, init="final")
        self.angle_resnet = AngleResnet(c, c_s, config.c_resnet, config.resnet_blocks)

    def forward(
        self,
        s: Float[Tensor, "*b N_res c_s"],
        z: Float[Tensor, "*b N_res N_res c_z"],
        aatype: Int[Tensor, "*b N_res"],
        mask: Float[Tensor, "*b N_res"],
    ) -> StructureOutput:
        """Representations, residue types 0..20 and the mask of existing residues -> every iteration's frames, torsions and atoms."""
        return without_autocast(self._fold, s, z, aatype, mask)

    def _fold(self, s: Tensor, z: Tensor, aatype: Tensor, mask: Tensor) -> StructureOutput:
        dtype = self.linear_in.weight.dtype
        mask = mask.to(dtype)
        s_initial, z = self.layer_norm_s(s.to(dtype)), self.layer_norm_z(z.to(dtype))
        s = self.linear_in(s_initial)
        rigid = Rigid.identity(s.shape[:-1], dtype, s.device)
        steps = []
        for _ in range(self.config.iterations):
            # from the second iteration on: rotations are learnt through one step only, translations through all (line 20)
            s, rigid = self._step(s, z, rigid.stop_rotation_gradient(), mask)
            steps.append(self._atoms(s, s_initial, rigid.scale(self.config.position_scale), aatype))
        last = steps[-1]
        positions, exists = atom14_to_atom37(aatype, last.atom14 * mask[..., None, None])
        trajectory = Atoms(*(torch.stack(each) for each in zip(*steps, strict=True)))
        return StructureOutput(*trajectory, positions, exists * mask.unsqueeze(-1), s)

    def _step(self, s: Tensor, z: Tensor, rigid: Rigid, mask: Tensor) -> tuple[Tensor, Rigid]:
        """Attention, transition and backbone update (lines 6-10)."""
        s = self.layer_norm_ipa(self.dropout(s + self.ipa(s, z, rigid, mask)))
        update = s
        for i, linear in enumerate(self.transition):
            update = linear(torch.relu(update) if i else update)
        s = self.layer_norm_transition(self.dropout(s + update))
        return s, rigid.compose_update(self.backbone_update(s))

    def _atoms(self, s: Tensor, s_initial: Tensor, backbone: Rigid, aatype: Tensor) -> Atoms:
        """Torsions and all atoms on the backbone frames in ångström (lines 11-14 and 24)."""
        raw = self.angle_resnet(s, s_initial)
        angles = torsions_of(raw)
        frames = torsion_angles_to_frames(aatype, backbone, angles)
        return Atoms(*backbone, angles, raw, *frames, frames_to_atom14(aatype, frames))


def torsions_of(raw: Float[Tensor, "*b 7 2"]) -> Float[Tensor, "*b 7 2"]:
    """(sin, cos) of length one; (0, 0) stays."""
    return raw * torch.rsqrt(raw.square().sum(-1, keepdim=True).clamp(min=_NORM_EPSILON))
