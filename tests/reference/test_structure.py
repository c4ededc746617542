"""Invariant point attention, side chains and the structure module against DeepMind's, in float32 and float64 (modules/*.npz)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from foldline.model.config import StructureConfig
from foldline.model.convert import deepmind as table
from foldline.model.convert.layout import Row
from foldline.model.frames import frames_to_atom14, torsion_angles_to_frames
from foldline.model.ipa import InvariantPointAttention
from foldline.model.rigid import Rigid
from foldline.model.structure import StructureModule, torsions_of
from foldline.tests.reference.module_cases import REFERENCE, Builder, Case, Outputs, assert_close, builder_of, case, claimed


def structure_config(raw: dict[str, Any]) -> StructureConfig:
    """DeepMind's ``heads.structure_module`` as ours."""
    return StructureConfig(
        iterations=raw["num_layer"],
        c_hidden=raw["num_scalar_qk"],
        c_value=raw["num_scalar_v"],
        heads=raw["num_head"],
        query_points=raw["num_point_qk"],
        value_points=raw["num_point_v"],
        transition_layers=raw["num_layer_in_transition"],
        dropout=raw["dropout"],
        c_resnet=raw["sidechain"]["num_channel"],
        resnet_blocks=raw["sidechain"]["num_residual_block"],
        position_scale=raw["position_scale"],
    )


def part(config: StructureConfig, theirs: str, ours: str) -> list[Row]:
    """The name table's rows of one part of the structure module, as those of a module called ``x``."""
    scope = theirs.rpartition("/")[0] + "/" if "/" in theirs else ""
    return [
        replace(row, theirs=tuple(n.removeprefix(scope) for n in row.theirs), ours=tuple("x." + n.removeprefix(ours) for n in row.ours))
        for row in table._structure_rows(config)
        if row.theirs[0].startswith(f"{theirs}/")
    ]


def attention(c: Case) -> Outputs:
    config = structure_config(c.config)
    module = InvariantPointAttention(c.inputs["inputs_1d"].shape[-1], c.inputs["inputs_2d"].shape[-1], config)
    c.load(module, part(config, "fold_iteration/invariant_point_attention", "ipa."))
    rigid = Rigid.from_tensor_7(c.inputs["affine"])
    return {"": module(c.inputs["inputs_1d"], c.inputs["inputs_2d"], rigid, c.inputs["mask"][..., 0])}


def sidechains(c: Case) -> Outputs:
    config = StructureConfig(c_resnet=c.config["num_channel"], resnet_blocks=c.config["num_residual_block"])
    s, initial = c.inputs["act"], c.inputs["initial_act"]
    resnet = StructureModule(initial.shape[-1], 1, config, s.shape[-1]).angle_resnet
    c.load(resnet, part(config, "fold_iteration/rigid_sidechain", "angle_resnet."))
    raw = resnet(s, initial)
    angles = torsions_of(raw)
    frames = torsion_angles_to_frames(c.inputs["aatype"], Rigid.from_tensor_7(c.inputs["affine"]), angles)
    return {
        "angles_sin_cos": angles,
        "unnormalized_angles_sin_cos": raw,
        "frames": flat12(frames),
        "atom_pos": frames_to_atom14(c.inputs["aatype"], frames),
    }


def structure_module(c: Case) -> Outputs:
    config = structure_config(c.config)
    single, pair, mask = c.inputs["single"], c.inputs["pair"], c.inputs["seq_mask"]
    module = StructureModule(single.shape[-1], pair.shape[-1], config, c.width("initial_projection//bias", 0))
    c.load(module, table._under("structure_module/", "x.", table._structure_rows(config)))
    out = module(single, pair, c.inputs["aatype"], mask)
    return {
        "representations/structure_module": out.single,
        "traj": flat12(Rigid(out.rotations, out.translations)),
        "final_affines": flat12(Rigid(out.rotations[-1], out.translations[-1])),
        "final_atom14_positions": out.atom14[-1],
        "final_atom_positions": out.positions * mask[..., None, None],
        "final_atom_mask": out.atom_mask,
        "sidechains/angles_sin_cos": out.angles,
        "sidechains/unnormalized_angles_sin_cos": out.unnormalized_angles,
        "sidechains/atom_pos": out.atom14,
        "sidechains/frames": flat12(Rigid(out.frame_rotations, out.frame_translations)),
    }


BUILDERS: dict[str, Builder] = {
    "invariant_point_attention": attention,
    "rigid_sidechain": sidechains,
    "structure_module": structure_module,
}


def flat12(rigid: Rigid) -> Tensor:
    return torch.cat((rigid.rotations.flatten(-2), rigid.translations), -1)


def comparable(name: str, value: Tensor, c: Case) -> Tensor:
    """A reference array in the form of ours: frames as matrices; the final atoms masked, as ours are."""
    if name in ("traj", "final_affines"):
        return flat12(Rigid.from_tensor_7(value))
    if name == "final_atom_positions":
        return value * c.inputs["seq_mask"][..., None, None]
    if name == "final_atom_mask":
        return value * c.inputs["seq_mask"][..., None]
    return value


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"no reference folder {REFERENCE}")
def test_cases_were_found() -> None:
    assert claimed(BUILDERS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", claimed(BUILDERS))
@torch.no_grad()
def test_equals_deepmind(name: str, dtype: torch.dtype) -> None:
    c = case(name).cast(dtype)
    builder = builder_of(name, BUILDERS)
    assert builder is not None
    ours = builder(c)
    # a mask of existing atoms by residue type, an input of theirs: ours is a table, compared in test_geometry
    theirs = {key: value for key, value in c.outputs.items() if key != "final_atom14_mask"}
    assert set(ours) == set(theirs)
    real = c.inputs.get("seq_mask", c.inputs.get("mask", torch.ones(len(c.inputs.get("act", ()))))).flatten().bool()
    for key, value in theirs.items():
        # Subtracting 1e5 from every logit of a masked row leaves it two digits: compare the others.
        along = 1 if key == "traj" or key.startswith("sidechains/") else 0
        assert_close(*(x.movedim(along, 0)[real] for x in (ours[key], comparable(key, value, c))))
