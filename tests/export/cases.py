"""Networks and proteins of the export tests: small sizes, every branch of the graph, real chains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from foldline.data_store.types import ChainRecord, Templates
from foldline.model.alphafold import AlphaFold
from foldline.model.config import ModelConfig, tiny


def small() -> ModelConfig:
    """Templates and the error head."""
    config = tiny()
    return replace(config, evoformer=replace(config.evoformer, blocks=1), structure=replace(config.structure, iterations=2))


def bare() -> ModelConfig:
    """No templates, no error head, chain-relative positions."""
    config = small()
    return replace(
        config,
        template=replace(config.template, enabled=False),
        heads=replace(config.heads, pae_enabled=False),
        embedder=replace(config.embedder, use_chain_relative=True),
    )


CONFIGS = {"small": small, "bare": bare}


def model_of(config: ModelConfig, seed: int = 0) -> AlphaFold:
    """Random weights without the zeros that AF2 starts residual branches with: every weight changes the output."""
    torch.manual_seed(seed)
    model = AlphaFold(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            elif not parameter.any():
                parameter.normal_(std=0.1)
    return model


def with_templates(record: ChainRecord, count: int) -> ChainRecord:
    """The chain's own coordinates as templates, each with another part missing."""
    n = len(record.sequence)
    mask = np.repeat(record.mask[None], count, 0).astype(np.uint8)
    for i in range(count):
        mask[i, i * n // 4 : (i + 1) * n // 4] = 0
    positions = np.repeat(record.positions[None], count, 0) * mask[..., None]
    aatype = np.repeat(record.aatype[None], count, 0).astype(np.int8)
    names = tuple(f"own_{i}" for i in range(count))
    return replace(record, templates=Templates(aatype, positions, mask, names, np.linspace(9, 1, count).astype(np.float32)))
