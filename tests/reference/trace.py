"""Our network's intermediate results under the names of the reference's (``iter<k>/...``), gathered with hooks, and their differences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from foldline.data_store.types import FeatureBatch
from foldline.model.all_atom import atom37_to_atom14
from foldline.model.alphafold import AlphaFold, Representations, run_cycles, run_ensemble
from foldline.model.confidence import compute_pae, compute_plddt, compute_ptm
from foldline.model.convert.deepmind import load_deepmind, to_deepmind
from foldline.model.losses.total import AlphaFoldLoss
from foldline.model.outputs import ModelOutput, StructureOutput
from foldline.tests.reference import model_cases as cases

PAIR, MSA, SINGLE, MASK, PAIR_MASK, NONE = (-3, -2), (-2,), (-2,), (-1,), (-2, -1), ()
# Written by the loss functions of the reference; compared where our losses are.
OF_THE_LOSS = ("distogram/true_dist", "structure_module/alt_naming_is_better", "structure_module/renamed_")

UPDATES = {
    "msa_row_attention_with_pair_bias": ("row_attention", MSA),
    "msa_transition": ("msa_transition", MSA),
    "outer_product_mean": ("outer_product_mean", PAIR),
    "triangle_multiplication_outgoing": ("pair.triangle_multiplication_outgoing", PAIR),
    "triangle_multiplication_incoming": ("pair.triangle_multiplication_incoming", PAIR),
    "triangle_attention_starting_node": ("pair.triangle_attention_starting", PAIR),
    "triangle_attention_ending_node": ("pair.triangle_attention_ending", PAIR),
    "pair_transition": ("pair.transition", PAIR),
}


class Named(NamedTuple):
    """A result, and which of its axes run over residues (to leave padding out of a comparison)."""

    value: Tensor
    residue_axes: tuple[int, ...]


class Difference(NamedTuple):
    """Largest absolute difference over the unpadded part, and the reference's largest absolute value there."""

    error: float
    scale: float


class Trace:
    """Results of every pass of ``model``, by the reference's names."""

    def __init__(self, model: AlphaFold) -> None:
        self.found: dict[str, Named] = {}
        self.passes = 0
        self._wrap(model)
        self._stack("extra_msa_stack", model.extra_msa_stack.blocks, "msa_column_global_attention")
        self._stack("evoformer", model.evoformer.blocks, "msa_column_attention")
        if model.template_embedder is not None:
            self._after(model.template_embedder.pair, lambda _, out: self._put("template_embedding_update", out, PAIR))
        self._structure(model)

    def _put(self, name: str, value: Tensor, axes: tuple[int, ...], back: int = 0) -> None:
        self.found[f"iter{self.passes - back}/{name}"] = Named(value.detach(), axes)

    @staticmethod
    def _after(module: nn.Module, put: Any) -> None:
        module.register_forward_hook(lambda _, arguments, out: put(arguments, out))

    def _wrap(self, model: AlphaFold) -> None:
        embed, represent = model.embed, model.represent

        def traced_embed(*arguments: Any) -> tuple[Tensor, Tensor]:
            m, z = embed(*arguments)
            self._put("pair_after_input_embedding", z, PAIR)
            return m, z

        def traced_represent(*arguments: Any) -> Representations:
            out = represent(*arguments)
            for name, value, axes in (
                ("msa", out.m, MSA),
                ("msa_first_row", out.m_1, SINGLE),
                ("pair", out.z, PAIR),
                ("single", out.s, SINGLE),
            ):
                self._put(f"representations/{name}", value, axes)
            self.passes += 1
            return out

        model.embed, model.represent = traced_embed, traced_represent  # type: ignore[method-assign]

    def _stack(self, name: str, blocks: nn.ModuleList, column: str) -> None:
        def put_inputs(m: Tensor, z: Tensor, msa_mask: Tensor, pair_mask: Tensor) -> None:
            self._put(f"{name}/input/msa", m, MSA)
            self._put(f"{name}/input/pair", z, PAIR)
            self._put(f"{name}/input_mask/msa", msa_mask, MASK)
            self._put(f"{name}/input_mask/pair", pair_mask, PAIR_MASK)

        def put_outputs(index: int, out: tuple[Tensor, Tensor]) -> None:
            self._put(f"{name}/block{index}/msa", out[0], MSA)
            self._put(f"{name}/block{index}/pair", out[1], PAIR)

        self._after(blocks[0], lambda arguments, _: put_inputs(*arguments))
        for index, block in enumerate(blocks):
            self._after(block, lambda _, out, index=index: put_outputs(index, out))
        for update, (path, axes) in {**UPDATES, column: ("column_attention", MSA)}.items():
            key = f"{name}/block0_updates/{update}"
            self._after(blocks[0].get_submodule(path), lambda _, out, key=key, axes=axes: self._put(key, out, axes))

    def _structure(self, model: AlphaFold) -> None:
        counts = {"ipa": 0, "act": 0}

        def put_layer(kind: str, name: str, out: Tensor) -> None:
            self._put(f"structure_module/layer{counts[kind]}/{name}", out, SINGLE, back=1)
            counts[kind] += 1

        def put_structure(out: StructureOutput) -> None:
            counts.update(ipa=0, act=0)
            for layer in range(len(out.angles)):
                for name, (value, axes) in layer_results(out, layer, model.config.structure.position_scale).items():
                    self._put(f"structure_module/layer{layer}/{name}", value, axes, back=1)
            self._put("structure_module/final_atom_positions", out.positions, (-3,), back=1)

        self._after(model.structure.ipa, lambda _, out: put_layer("ipa", "ipa_update", out))
        self._after(model.structure.layer_norm_transition, lambda _, out: put_layer("act", "act", out))
        self._after(model.structure, lambda _, out: put_structure(out))


def layer_results(out: StructureOutput, layer: int, scale: float) -> dict[str, Named]:
    """What the reference keeps of one structure iteration."""
    return {
        "affine": Named(affine(out.rotations[layer], out.translations[layer] / scale), SINGLE),
        "angles_sin_cos": Named(out.angles[layer], (-3,)),
        "unnormalized_angles_sin_cos": Named(out.unnormalized_angles[layer], (-3,)),
        "atom_pos": Named(out.atom14[layer], (-3,)),
    }


def affine(rotations: Tensor, translations: Tensor) -> Tensor:
    """[*, 12]: row-major rotation, then translation; the reference's quaternions are brought to this form before comparing."""
    return torch.cat((rotations.flatten(-2), translations), -1)


def affine_of_quaternions(array: np.ndarray) -> np.ndarray:
    """[*, 7] (w, x, y, z, translation) -> the form of ``affine``."""
    w, x, y, z = np.moveaxis(array[..., :4].astype(np.float64), -1, 0)
    rows = [
        [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
    ]
    rotation = np.stack([np.stack(row, -1) for row in rows], -2).reshape(*array.shape[:-1], 9)
    return np.concatenate([rotation, array[..., 4:]], -1)


def outputs(model: AlphaFold, batch: FeatureBatch, out: ModelOutput) -> dict[str, Named]:
    """What the reference's heads return, by its names."""
    structure, heads = out.structure, model.config.heads
    frames = torch.cat((structure.frame_rotations.flatten(-2), structure.frame_translations), -1)
    trajectory = affine(structure.rotations, structure.translations)
    edges = torch.linspace(heads.distogram_first_break, heads.distogram_last_break, heads.distogram_bins - 1)
    found = {
        "representations/single": Named(out.s, SINGLE),
        "representations/pair": Named(out.z, PAIR),
        "representations/msa": Named(out.m, MSA),
        "representations/msa_first_row": Named(out.recycled.m_1, SINGLE),
        "representations/structure_module": Named(structure.single, SINGLE),
        "distogram/logits": Named(out.distogram, PAIR),
        "distogram/bin_edges": Named(edges, NONE),
        "experimentally_resolved/logits": Named(out.experimentally_resolved, SINGLE),
        "masked_msa/logits": Named(out.masked_msa, MSA),
        "predicted_lddt/logits": Named(out.plddt, SINGLE),
        "structure_module/traj": Named(trajectory, SINGLE),
        "structure_module/final_affines": Named(trajectory[-1], SINGLE),
        "structure_module/sidechains/angles_sin_cos": Named(structure.angles, (-3,)),
        "structure_module/sidechains/unnormalized_angles_sin_cos": Named(structure.unnormalized_angles, (-3,)),
        "structure_module/sidechains/atom_pos": Named(structure.atom14, (-3,)),
        "structure_module/sidechains/frames": Named(frames, (-3,)),
        "structure_module/final_atom14_positions": Named(structure.atom14[-1], (-3,)),
        "structure_module/final_atom14_mask": Named(atom14_mask(batch, out), SINGLE),
        "structure_module/final_atom_positions": Named(structure.positions, (-3,)),
        "structure_module/final_atom_mask": Named(structure.atom_mask, SINGLE),
        "confidence/plddt": Named(compute_plddt(out.plddt), MASK),
    }
    if out.pae is not None:
        pae = compute_pae(out.pae, heads.pae_max)
        found |= {
            "predicted_aligned_error/logits": Named(out.pae, PAIR),
            "predicted_aligned_error/breaks": Named(torch.linspace(0.0, heads.pae_max, heads.pae_bins - 1), NONE),
            "confidence/aligned_confidence_probs": Named(out.pae.softmax(-1), PAIR),
            "confidence/predicted_aligned_error": Named(pae.expected, PAIR_MASK),
            "confidence/max_predicted_aligned_error": Named(pae.maximum, NONE),
            "confidence/ptm": Named(compute_ptm(out.pae, heads.pae_max), NONE),
        }
    return found


class AnglesInFloat32(nn.Module):
    """The template torsions of a wider network, computed in float32.

    Where template atoms are missing three atoms can be collinear, and the reference's torsion is what float32 rounding makes of it.
    """

    def __init__(self, angles: nn.Module) -> None:
        super().__init__()
        self.angles = angles.float()

    def forward(self, batch: FeatureBatch) -> tuple[Tensor, Tensor]:
        narrow = FeatureBatch(*(field.float() if field.is_floating_point() else field for field in batch))
        rows, mask = self.angles(narrow)
        return rows.to(batch.msa_feat.dtype), mask.to(batch.msa_feat.dtype)


def atom14_mask(batch: FeatureBatch, out: ModelOutput) -> Tensor:
    """The atom37 mask by atom14 slots."""
    return atom37_to_atom14(batch.aatype, out.structure.positions, out.structure.atom_mask)[1]


def load(case: str, dtype: torch.dtype = torch.float32) -> AlphaFold:
    """The case's network with its parameters, in eval mode."""
    model = AlphaFold(cases.model_config(cases.settings(case)["config_model"]))
    model.load_state_dict(load_deepmind(cases.arrays(case, "params"), model.config))
    model = model.to(dtype).eval()
    if dtype != torch.float32 and model.template_embedder is not None and model.template_embedder.angles is not None:
        model.template_embedder.angles = AnglesInFloat32(model.template_embedder.angles)  # type: ignore[assignment]
    return model


def run(case: str, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Named], dict[str, Named]]:
    """(intermediates, outputs) of a case."""
    model, cycles = load(case, dtype), cases.cycles(case, dtype)
    trace = Trace(model)
    with torch.no_grad():
        ensembled = len(cycles[0]) > 1
        out = run_ensemble(model, cycles) if ensembled else run_cycles(model, [members[0] for members in cycles])
    return trace.found, outputs(model, cycles[-1][0], out)


def differences(case: str, dtype: torch.dtype = torch.float32) -> dict[str, Difference]:
    """Every array of the case's intermediates.npz (``iter<k>/...``) and outputs.npz (``out/...``) against ours; none may be left over."""
    intermediates, final = run(case, dtype)
    n_res = int(cases.arrays(case, "batch")["seq_mask"][0].sum())
    found = {}
    for name, array in cases.arrays(case, "intermediates").items():
        found[name] = difference(intermediates[name], array, n_res)
    for name, array in cases.arrays(case, "outputs").items():
        if not name.startswith(OF_THE_LOSS):
            found[f"out/{name}"] = difference(final[name], array, n_res)
    return found


def difference(ours: Named, theirs: np.ndarray, n_res: int) -> Difference:
    """Compare under the first ``n_res`` residues."""
    value = ours.value.double().numpy()
    if theirs.ndim and theirs.shape[-1] == 7 and value.shape[-1] == 12:
        theirs = affine_of_quaternions(theirs)
    assert value.shape == theirs.shape, f"shapes {value.shape} and {theirs.shape}"
    cut = tuple(slice(n_res) if axis - value.ndim in ours.residue_axes else slice(None) for axis in range(value.ndim))
    gap = np.abs(value[cut] - theirs[cut])
    return Difference(float(gap.max()), float(np.abs(theirs[cut]).max()))


def gradient_differences(case: str) -> tuple[float, dict[str, Difference]]:
    """(our total loss, gradient of every parameter by the reference's name) without the PAE term; dropout off, all passes recycled.

    The reference's PAE loss is left out because rounding decides its value on the diagonal.
    """
    model, passes = load(case), [members[0] for members in cases.cycles(case)]
    config = replace(model.config, loss=replace(model.config.loss, pae_weight=0.0))
    loss = AlphaFoldLoss(config)(run_cycles(model, passes), passes[-1], cases.targets(case)).total
    loss.backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    ours = {name: array for name, array in to_deepmind(gradients, model.config).items() if "predicted_aligned_error" not in name}
    theirs = {name: array for name, array in cases.arrays(case, "grads_nopae").items() if name != "total_loss"}
    assert set(ours) == set(theirs)
    return loss.item(), {n: Difference(float(abs(ours[n] - a).max()), float(abs(a).max())) for n, a in theirs.items()}
