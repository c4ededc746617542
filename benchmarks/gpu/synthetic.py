"""Made-up proteins of any size: valid masks, types and stereochemistry-like distances; and networks whose blocks all do something."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foldline.data_store.types import FeatureBatch, Targets, TrainBatch
from foldline.model import tables
from foldline.model.alphafold import AlphaFold
from foldline.model.config import ModelConfig
from foldline.model.primitives import Linear


def network(config: ModelConfig, device: str) -> AlphaFold:
    """As initialised, but for the output layers that AF2 starts at 0: blocks would add nothing."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AlphaFold(config)
    wake(model)
    return model


def wake(model: nn.Module) -> None:
    """Small random weights for every layer that starts at 0."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Linear) and module.init == "final":
                module.weight.normal_(0.0, 0.02)


def chain_positions(n_res: int, generator: torch.Generator) -> Tensor:
    """[N_res, 37, 3] ångström: alpha carbons 3.8 apart on a drifting walk, the other atoms within 2 of theirs."""
    steps = torch.randn(n_res, 3, generator=generator) + torch.tensor([0.5, 0.0, 0.0])
    walk = 3.8 * torch.nn.functional.normalize(steps, dim=-1).cumsum(0)
    around = torch.nn.functional.normalize(torch.randn(n_res, 37, 3, generator=generator), dim=-1)
    around *= 1.5 + 0.5 * torch.rand(n_res, 37, 1, generator=generator)
    around[:, 1] = 0.0
    return walk[:, None] + around


def features(n_res: int, n_clust: int, n_extra: int, n_templ: int, generator: torch.Generator) -> FeatureBatch:
    """One unbatched feature set on the CPU; ``n_templ`` 0 stands for one absent template."""

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    def flags(fraction: float, *shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator) < fraction).float()

    aatype, slots = integers(20, n_res), max(1, n_templ)
    one_hot = torch.nn.functional.one_hot
    msa_feat = torch.cat((one_hot(integers(23, n_clust, n_res), 23).float(), torch.rand(n_clust, n_res, 26, generator=generator)), -1)
    types = integers(20, slots, n_res)
    ones = torch.ones(n_res, dtype=torch.long)
    return FeatureBatch(
        aatype=aatype,
        residue_index=torch.arange(n_res),
        seq_mask=torch.ones(n_res),
        asym_id=ones,
        entity_id=ones,
        sym_id=ones,
        target_feat=one_hot(aatype + 1, 22).float(),
        msa_feat=msa_feat,
        msa_mask=torch.ones(n_clust, n_res),
        extra_msa=integers(23, n_extra, n_res),
        extra_has_deletion=flags(0.1, n_extra, n_res),
        extra_deletion_value=flags(0.1, n_extra, n_res),
        extra_msa_mask=torch.ones(n_extra, n_res),
        template_aatype=types,
        template_positions=torch.stack([chain_positions(n_res, generator) for _ in range(slots)]),
        template_atom_mask=tables.ATOM37_EXISTS(types, torch.float32),
        template_mask=torch.full((slots,), float(n_templ > 0)),
    )


def training_batch(n_res: int, n_clust: int, n_extra: int, n_templ: int, seed: int = 0) -> TrainBatch:
    """One pass of one protein with its targets, leading dimension 1, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    batch = features(n_res, n_clust, n_extra, n_templ, generator)
    targets = Targets(
        positions=chain_positions(n_res, generator),
        atom_mask=tables.ATOM37_EXISTS(batch.aatype, torch.float32),
        true_msa=torch.randint(21, (n_clust, n_res), generator=generator),
        bert_mask=(torch.rand(n_clust, n_res, generator=generator) < 0.15).float(),
        resolution=torch.tensor(2.0),
        use_clamped_fape=torch.tensor(1.0),
    )
    one = (FeatureBatch(*(x[None] for x in batch)),)
    return TrainBatch(one, Targets(*(x[None] for x in targets)), torch.zeros(1, dtype=torch.long))
