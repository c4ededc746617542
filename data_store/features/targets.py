"""What the losses compare with: coordinates of the crop, the unmasked MSA, the clamping choice (AF2 supplement 1.3, 1.9)."""

from __future__ import annotations

import numpy as np

from ..types import ChainRecord


def make_targets(
    record: ChainRecord, residues: slice | np.ndarray, true_msa: np.ndarray, bert_mask: np.ndarray, clamped: bool, min_plddt: float
) -> dict[str, np.ndarray]:
    """The fields of ``Targets`` for ``residues``, in the stored types; ``true_msa`` and ``bert_mask`` [N_clust, N_res] of the trained pass.

    A predicted chain (``record.plddt`` given) teaches only where its pLDDT reaches ``min_plddt``.
    """
    atom_mask = record.mask[residues]
    if record.plddt is not None:
        atom_mask = atom_mask * (record.plddt[residues] >= min_plddt)[:, None]
    return {
        "positions": record.positions[residues],
        "atom_mask": atom_mask,
        "true_msa": true_msa,
        "bert_mask": bert_mask,
        "resolution": np.array(record.metadata.resolution, np.float32),
        "use_clamped_fape": np.array(clamped, np.float32),
    }
