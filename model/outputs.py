"""What the network returns. NamedTuples, because export, checkpointing and DeepSpeed traverse them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Recycled(NamedTuple):
    """What one pass hands to the next (Algorithm 32); zeros before the first.

    ``m_1`` [*, N_res, c_m] first MSA row, ``z`` [*, N_res, N_res, c_z], ``x`` [*, N_res, 3] pseudo-beta positions in ångström.
    """

    m_1: Tensor
    z: Tensor
    x: Tensor


class StructureOutput(NamedTuple):
    """The structure module's results (Algorithm 20); L is its number of iterations. Positions in ångström.

    ``rotations`` [L, *, N_res, 3, 3] and ``translations`` [L, *, N_res, 3] are the backbone frames after each update;
    ``angles`` and ``unnormalized_angles`` [L, *, N_res, 7, 2] torsions as (sin, cos): pre-omega, phi, psi, chi1..chi4;
    ``frame_rotations`` [L, *, N_res, 8, 3, 3] and ``frame_translations`` [L, *, N_res, 8, 3] rigid groups;
    ``atom14`` [L, *, N_res, 14, 3]; ``positions`` [*, N_res, 37, 3] and ``atom_mask`` [*, N_res, 37] of the last iteration;
    ``single`` [*, N_res, c_s] the last iteration's activation.
    """

    rotations: Tensor
    translations: Tensor
    angles: Tensor
    unnormalized_angles: Tensor
    frame_rotations: Tensor
    frame_translations: Tensor
    atom14: Tensor
    positions: Tensor
    atom_mask: Tensor
    single: Tensor


class ModelOutput(NamedTuple):
    """One pass of the network (Algorithm 2): representations, structure, logits of every head.

    ``m`` [*, N_clust, N_res, c_m] (cluster rows only), ``z`` [*, N_res, N_res, c_z], ``s`` [*, N_res, c_s];
    ``distogram`` [*, N_res, N_res, bins], ``masked_msa`` [*, N_clust, N_res, 23], ``experimentally_resolved`` [*, N_res, 37],
    ``plddt`` [*, N_res, bins], ``pae`` [*, N_res, N_res, bins] or None where the head is off; all logits.
    """

    m: Tensor
    z: Tensor
    s: Tensor
    structure: StructureOutput
    distogram: Tensor
    masked_msa: Tensor
    experimentally_resolved: Tensor
    plddt: Tensor
    pae: Tensor | None
    recycled: Recycled


class Loss(NamedTuple):
    """``total`` (the scalar to minimise, before the sqrt(N_res) scaling) and each weighted term, scalars or [*]."""

    total: Tensor
    fape: Tensor  # 0.5 backbone + 0.5 side chain
    chi: Tensor  # weighted, with the angle norm
    distogram: Tensor
    masked_msa: Tensor
    plddt: Tensor
    experimentally_resolved: Tensor
    violation: Tensor
    pae: Tensor
