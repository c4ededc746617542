"""Small random inputs and networks for laws that must hold whatever the numbers are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foldline.data_store.types import FeatureBatch
from foldline.model.alphafold import AlphaFold
from foldline.model.config import ModelConfig


def network(config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float64) -> AlphaFold:
    """A network in eval mode whose every parameter is random: as initialised, AF2's zero output layers would make each law hold."""
    model = AlphaFold(config).to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)

    def normal(parameter: Tensor, scale: float, mean: float = 0.0) -> None:
        parameter.copy_(mean + scale * torch.randn(parameter.shape, generator=generator, dtype=dtype))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                normal(module.weight, 0.15, 1.0)
                normal(module.bias, 0.15)
            elif isinstance(module, nn.Linear):
                normal(module.weight, module.in_features**-0.5)
                if module.bias is not None:
                    normal(module.bias, 0.2)
        model.structure.backbone_update.weight.mul_(0.3)  # small steps: large frames would drown every other influence
    return model


def features(
    n_res: int = 7, n_clust: int = 5, n_extra: int = 6, n_templ: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64
) -> FeatureBatch:
    """One unbatched feature set: a random walk as template backbone, random MSA, a few masked entries."""
    g = torch.Generator().manual_seed(seed)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=g)

    def flags(fraction: float, *shape: int) -> Tensor:
        return (torch.rand(shape, generator=g) < fraction).to(dtype)

    aatype = integers(21, n_res)
    msa_mask, extra_mask = flags(0.9, n_clust, n_res), flags(0.9, n_extra, n_res)
    msa_mask[0] = 1.0
    walk = 3.8 * torch.randn(n_templ, n_res, 1, 3, generator=g, dtype=dtype).cumsum(1)
    return FeatureBatch(
        aatype=aatype,
        residue_index=torch.arange(n_res),
        seq_mask=torch.ones(n_res, dtype=dtype),
        asym_id=torch.ones(n_res, dtype=torch.long),
        entity_id=torch.ones(n_res, dtype=torch.long),
        sym_id=torch.ones(n_res, dtype=torch.long),
        target_feat=torch.nn.functional.one_hot(aatype + 1, 22).to(dtype),
        msa_feat=torch.randn(n_clust, n_res, 49, generator=g, dtype=dtype),
        msa_mask=msa_mask,
        extra_msa=integers(23, n_extra, n_res),
        extra_has_deletion=flags(0.3, n_extra, n_res),
        extra_deletion_value=torch.rand(n_extra, n_res, generator=g, dtype=dtype),
        extra_msa_mask=extra_mask,
        template_aatype=integers(22, n_templ, n_res),
        template_positions=walk + torch.randn(n_templ, n_res, 37, 3, generator=g, dtype=dtype),
        template_atom_mask=flags(0.9, n_templ, n_res, 37),
        template_mask=torch.ones(n_templ, dtype=dtype),
    )
