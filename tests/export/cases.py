"""Networks and proteins of the export tests: small sizes, every branch of the graph, real chains."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from foldline.data_store.types import ChainRecord, Templates
from foldline.export.engine_store import GATE, GATE_PAGE, Engine, seal_gate
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


def give_gate(engine: Engine, scratch: Path) -> Engine:
    """An engine with the report of a gate that it passed; ``scratch`` is an existing folder beside it."""
    report = scratch / ".report"
    report.mkdir()
    (report / GATE).write_text(json.dumps({"passed": True, "reference": "torch", "checks": []}))
    (report / GATE_PAGE).write_text("<html>")
    sealed = seal_gate(report, engine, engine.path)
    shutil.rmtree(report)
    return sealed
