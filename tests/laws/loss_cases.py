"""Made-up proteins with true stereochemistry, and network outputs around them: what the laws of the losses are tried on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foldline.data_store.residues import RESTYPE_INDEX
from foldline.data_store.types import FeatureBatch, Targets
from foldline.model import tables
from foldline.model.all_atom import atom14_to_atom37
from foldline.model.config import ModelConfig, tiny
from foldline.model.frames import frames_to_atom14, torsion_angles_to_frames
from foldline.model.outputs import ModelOutput, Recycled, StructureOutput
from foldline.model.rigid import Rigid, quaternion_to_rotation

Sample = tuple[ModelOutput, FeatureBatch, Targets]
ITERATIONS, N_CLUST = 2, 3


def random_rotations(*shape: int, generator: torch.Generator) -> Tensor:
    return quaternion_to_rotation(torch.randn(*shape, 4, generator=generator, dtype=torch.float64))


def config() -> ModelConfig:
    """All losses switched on."""
    return tiny()


def structure(aatype: Tensor, generator: torch.Generator) -> StructureOutput:
    """A chain whose Cα atoms walk 3.8 Å at a time, with random torsions, as the structure module would return it."""
    n = len(aatype)
    steps = torch.nn.functional.normalize(torch.randn(ITERATIONS, n, 3, generator=generator, dtype=torch.float64), dim=-1)
    backbone = Rigid(random_rotations(ITERATIONS, n, generator=generator), 3.8 * steps.cumsum(-2))
    raw = torch.randn(ITERATIONS, n, 7, 2, generator=generator, dtype=torch.float64)
    angles = torch.nn.functional.normalize(raw, dim=-1)
    types = aatype.expand(ITERATIONS, n)
    groups = torsion_angles_to_frames(types, backbone, angles)
    atom14 = frames_to_atom14(types, groups)
    positions, atom_mask = atom14_to_atom37(aatype, atom14[-1])
    return StructureOutput(
        backbone.rotations,
        backbone.translations,
        angles,
        raw,
        groups.rotations,
        groups.translations,
        atom14,
        positions,
        atom_mask,
        single=torch.zeros(n, 1, dtype=torch.float64),
    )


def sample(n_res: int, seed: int, dtype: torch.dtype = torch.float64) -> Sample:
    """An output, features and targets (another random structure, some atoms unresolved) of one protein with every residue type."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    # Symmetric side chains, glycine, cysteine, proline and an unknown residue first, so that short chains have them too.
    first = torch.tensor([RESTYPE_INDEX[letter] for letter in "DYGPCXFE"])
    aatype = torch.cat((first, torch.randint(0, 20, (n_res,), generator=generator)))[:n_res]
    predicted, true = structure(aatype, generator), structure(aatype, generator)
    resolved = (torch.rand(n_res, 37, generator=generator) < 0.9).double() * tables.ATOM37_EXISTS(aatype, torch.float64)
    bins = config().heads
    output = ModelOutput(
        m=random(N_CLUST, n_res, 1),
        z=random(n_res, n_res, 1),
        s=random(n_res, 1),
        structure=predicted,
        distogram=random(n_res, n_res, bins.distogram_bins),
        masked_msa=random(N_CLUST, n_res, bins.masked_msa_classes),
        experimentally_resolved=random(n_res, 37),
        plddt=random(n_res, bins.plddt_bins),
        pae=random(n_res, n_res, bins.pae_bins),
        recycled=Recycled(random(n_res, 1), random(n_res, n_res, 1), random(n_res, 3)),
    )
    targets = Targets(
        positions=true.positions * resolved.unsqueeze(-1),
        atom_mask=resolved,
        true_msa=torch.randint(0, 22, (N_CLUST, n_res), generator=generator),
        bert_mask=(torch.rand(N_CLUST, n_res, generator=generator) < 0.3).double(),
        resolution=torch.tensor(2.0, dtype=torch.float64),
        use_clamped_fape=torch.tensor(0.9, dtype=torch.float64),
    )
    return to_dtype((output, features(aatype), targets), dtype)


def features(aatype: Tensor) -> FeatureBatch:
    """The features that losses read, and one-row zeros for the others; the residue numbers jump once."""
    n = len(aatype)
    index = torch.arange(n) + 20 * (torch.arange(n) > n // 2)
    row, ones = torch.zeros(1, n, dtype=torch.float64), torch.ones(n, dtype=torch.int64)
    return FeatureBatch(
        aatype=aatype,
        residue_index=index,
        seq_mask=torch.ones(n, dtype=torch.float64),
        asym_id=ones,
        entity_id=ones,
        sym_id=ones,
        target_feat=row.new_zeros(n, 22),
        msa_feat=row.new_zeros(1, n, 49),
        msa_mask=row,
        extra_msa=row.long(),
        extra_has_deletion=row,
        extra_deletion_value=row,
        extra_msa_mask=row,
        template_aatype=row.long(),
        template_positions=row.new_zeros(1, n, 37, 3),
        template_atom_mask=row.new_zeros(1, n, 37),
        template_mask=row.new_zeros(1),
    )


def to_dtype(value: Sample, dtype: torch.dtype) -> Sample:
    """Floating-point tensors in ``dtype``."""
    return _map(value, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)  # type: ignore[no-any-return]


def stack(samples: Sequence[Sample]) -> Sample:
    """One batch of samples of equal length: a leading dimension, behind the iterations' in the structure module's lists."""
    output, batch, targets = (_zip([s[i] for s in samples]) for i in range(3))
    per_iteration = {name: getattr(output.structure, name).transpose(0, 1) for name in StructureOutput._fields[:7]}
    return output._replace(structure=output.structure._replace(**per_iteration)), batch, targets


def pad(value: Sample, n_res: int, extra: int, garbage: float) -> Sample:
    """``extra`` more residues that the sequence mask hides, everything about them ``garbage``; residue types stay valid."""
    output, batch, targets = value

    def longer(tensor: Tensor) -> Tensor:
        for dim, size in enumerate(tensor.shape):
            if size == n_res:
                shape = (*tensor.shape[:dim], extra, *tensor.shape[dim + 1 :])
                filler = torch.full(shape, garbage, dtype=tensor.dtype) if tensor.is_floating_point() else torch.full(shape, 1)
                tensor = torch.cat((tensor, filler), dim)
        return tensor

    output, batch, targets = _map((output, batch, targets), longer)
    batch = batch._replace(seq_mask=(torch.arange(n_res + extra) < n_res).to(batch.seq_mask.dtype))
    bert_mask = targets.bert_mask * batch.seq_mask
    return output, batch, targets._replace(bert_mask=bert_mask, atom_mask=targets.atom_mask.clamp(0, 1))


def _map(value, function):  # type: ignore[no-untyped-def]
    if isinstance(value, Tensor):
        return function(value)
    fields = [_map(field, function) for field in value]
    return type(value)(*fields) if hasattr(value, "_fields") else tuple(fields)


def _zip(values):  # type: ignore[no-untyped-def]
    if isinstance(values[0], Tensor):
        return torch.stack(values)
    return type(values[0])(*(_zip(list(fields)) for fields in zip(*values, strict=True)))
