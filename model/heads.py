"""The output heads: what the loss and the confidence measures read (AF2 supplement 1.9)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from ..data_store.residues import N_ATOM37
from .config import HeadsConfig
from .primitives import LayerNorm, Linear, without_autocast


class HeadLogits(NamedTuple):
    """The logits of every head; shapes as in ``ModelOutput``. ``pae`` is None where the head is off."""

    distogram: Tensor
    masked_msa: Tensor
    experimentally_resolved: Tensor
    plddt: Tensor
    pae: Tensor | None


class DistogramHead(nn.Module):
    """Pair representation -> binned pseudo-beta distances, symmetric in i and j (supplement 1.9.8)."""

    def __init__(self, c_z: int, bins: int) -> None:
        super().__init__()
        self.half_logits = Linear(c_z, bins, init="final")

    def forward(self, z: Tensor) -> Tensor:
        """``z`` [*, N_res, N_res, c_z] -> logits [*, N_res, N_res, bins]."""
        half: Tensor = self.half_logits(z)
        return half + half.transpose(-2, -3)


class MaskedMSAHead(nn.Module):
    """MSA representation -> the residue type behind each masked position (supplement 1.9.9)."""

    def __init__(self, c_m: int, classes: int) -> None:
        super().__init__()
        self.logits = Linear(c_m, classes, init="final")

    def forward(self, m: Tensor) -> Tensor:
        """``m`` [*, N_clust, N_res, c_m] -> logits [*, N_clust, N_res, classes]."""
        return self.logits(m)


class ExperimentallyResolvedHead(nn.Module):
    """Single representation -> whether each of the 37 atoms is seen in the experiment (supplement 1.9.10)."""

    def __init__(self, c_s: int) -> None:
        super().__init__()
        self.logits = Linear(c_s, N_ATOM37, init="final")

    def forward(self, s: Tensor) -> Tensor:
        """``s`` [*, N_res, c_s] -> logits [*, N_res, 37]."""
        return self.logits(s)


class PLDDTHead(nn.Module):
    """The structure module's activation -> binned lDDT-Cα per residue (Algorithm 29)."""

    def __init__(self, c_s: int, c_hidden: int, bins: int) -> None:
        super().__init__()
        self.layer_norm = LayerNorm(c_s)
        self.linear_1 = Linear(c_s, c_hidden, init="relu")
        self.linear_2 = Linear(c_hidden, c_hidden, init="relu")
        self.logits = Linear(c_hidden, bins, init="final")

    def forward(self, s: Tensor) -> Tensor:
        """``s`` [*, N_res, c_s] -> logits [*, N_res, bins]."""
        hidden = self.linear_1(self.layer_norm(s)).relu()
        return self.logits(self.linear_2(hidden).relu())


class PAEHead(nn.Module):
    """Pair representation -> binned error of residue j seen from the frame of residue i (supplement 1.9.7)."""

    def __init__(self, c_z: int, bins: int) -> None:
        super().__init__()
        self.logits = Linear(c_z, bins, init="final")

    def forward(self, z: Tensor) -> Tensor:
        """``z`` [*, N_res, N_res, c_z] -> logits [*, N_res, N_res, bins]."""
        return self.logits(z)


class Heads(nn.Module):
    """All heads of one network. They compute in the type of their parameters, with autocast off."""

    def __init__(self, c_m: int, c_z: int, c_s: int, config: HeadsConfig) -> None:
        super().__init__()
        self.distogram = DistogramHead(c_z, config.distogram_bins)
        self.masked_msa = MaskedMSAHead(c_m, config.masked_msa_classes)
        self.experimentally_resolved = ExperimentallyResolvedHead(c_s)
        self.plddt = PLDDTHead(c_s, config.c_plddt, config.plddt_bins)
        self.pae = PAEHead(c_z, config.pae_bins) if config.pae_enabled else None

    def forward(self, m: Tensor, z: Tensor, s: Tensor, structure_single: Tensor) -> HeadLogits:
        """``m`` [*, N_clust, N_res, c_m], ``z`` [*, N_res, N_res, c_z], ``s`` and ``structure_single`` [*, N_res, c_s]."""
        return without_autocast(self._read, m, z, s, structure_single)

    def _read(self, *representations: Tensor) -> HeadLogits:
        dtype = self.distogram.half_logits.weight.dtype
        m, z, s, structure_single = (tensor.to(dtype) for tensor in representations)
        return HeadLogits(
            distogram=self.distogram(z),
            masked_msa=self.masked_msa(m),
            experimentally_resolved=self.experimentally_resolved(s),
            plddt=self.plddt(structure_single),
            pae=self.pae(z) if self.pae is not None else None,
        )
