"""What the losses compare with: coordinates of the window, the unmasked MSA, the clamping choice (AF2 supplement 1.3, 1.9)."""

from __future__ import annotations

import numpy as np

from ..types import ChainRecord, Targets


def make_targets(
    record: ChainRecord, residues: slice, true_msa: np.ndarray, bert_mask: np.ndarray, clamped: bool, min_plddt: float
) -> Targets:
    """Targets of the window ``residues``; ``true_msa`` and ``bert_mask`` [N_clust, N_res of the window] are of the trained pass.

    A predicted chain (``record.plddt`` given) teaches only where its pLDDT reaches ``min_plddt``.
    """
    atom_mask = record.mask[residues].astype(np.float32)
    if record.plddt is not None:
        atom_mask *= (record.plddt[residues] >= min_plddt)[:, None]
    return Targets(
        positions=record.positions[residues].astype(np.float32),
        atom_mask=atom_mask,
        true_msa=true_msa.astype(np.int64),
        bert_mask=bert_mask,
        resolution=np.array(record.metadata.resolution, np.float32),
        use_clamped_fape=np.array(clamped, np.float32),
    )
