"""One pass of the network as flat named tensors, and the arrays that go in and come out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..data_store.types import FeatureBatch, FieldSchema, schema_of
from ..model.alphafold import AlphaFold
from ..model.config import ModelConfig
from ..model.outputs import Recycled

Arrays = dict[str, np.ndarray]
RECYCLED = {"prev_m_1": "next_m_1", "prev_z": "next_z", "prev_x": "next_x"}  # input of a pass: output of the pass before
CHAIN_FIELDS = ("asym_id", "entity_id", "sym_id")
DTYPES: dict[str, np.dtype[Any]] = {"int": np.dtype(np.int64), "float": np.dtype(np.float32)}


def input_schema(config: ModelConfig) -> dict[str, FieldSchema]:
    """Name -> schema of the pass's inputs: those fields of ``FeatureBatch`` that this network reads, then the recycled tensors."""
    skipped = set() if config.embedder.use_chain_relative else set(CHAIN_FIELDS)
    fields = {name: schema for name, schema in schema_of(FeatureBatch).items() if name not in skipped}
    if not config.template.enabled:
        fields = {name: schema for name, schema in fields.items() if not name.startswith("template_")}
    return fields | {name: recycled_schema(config)[name] for name in RECYCLED}


def recycled_schema(config: ModelConfig) -> dict[str, FieldSchema]:
    """Name -> schema of what one pass hands to the next, under its input names."""
    return {
        "prev_m_1": FieldSchema("float", ("N_res", config.c_m)),
        "prev_z": FieldSchema("float", ("N_res", "N_res", config.c_z)),
        "prev_x": FieldSchema("float", ("N_res", 3)),
    }


def output_schema(config: ModelConfig) -> dict[str, FieldSchema]:
    """Name -> schema of the pass's outputs. Positions in ångström; ``plddt``, ``distogram`` and ``pae`` are logits."""
    heads = config.heads
    shapes: dict[str, tuple[str | int, ...]] = {
        "positions": ("N_res", 37, 3),
        "atom_mask": ("N_res", 37),
        "plddt": ("N_res", heads.plddt_bins),
        "distogram": ("N_res", "N_res", heads.distogram_bins),
    }
    if heads.pae_enabled:
        shapes["pae"] = ("N_res", "N_res", heads.pae_bins)
    recycled = {RECYCLED[name]: schema for name, schema in recycled_schema(config).items()}
    return {name: FieldSchema("float", dims) for name, dims in shapes.items()} | recycled


def border_schema(config: ModelConfig) -> dict[str, FieldSchema]:
    """Name -> schema of every tensor that enters, leaves or crosses between the stages of a pass."""
    between: dict[str, tuple[str | int, ...]] = {
        "embedded_m": ("N_clust", "N_res", config.c_m),
        "embedded_z": ("N_res", "N_res", config.c_z),
        "templated_z": ("N_res", "N_res", config.c_z),
        "template_rows": ("N_templ", "N_res", config.c_m),
        "template_rows_mask": ("N_templ", "N_res"),
        "extra_z": ("N_res", "N_res", config.c_z),
        "s": ("N_res", config.c_s),
        "structure_s": ("N_res", config.c_s),
    }
    return input_schema(config) | {name: FieldSchema("float", dims) for name, dims in between.items()} | output_schema(config)


class FoldPass(nn.Module):
    """``AlphaFold`` behind flat tensors, unbatched: the arguments follow ``input_schema``, the results ``output_schema``."""

    def __init__(self, model: AlphaFold) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(input_schema(model.config))
        self.outputs = tuple(output_schema(model.config))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors in the order of ``self.inputs`` -> tensors in the order of ``self.outputs``."""
        given = dict(zip(self.inputs, tensors, strict=True))
        recycled = Recycled(*(given.pop(name) for name in RECYCLED))
        # Fields that this network does not read stand in by a tensor that it does read; they leave no trace in the graph.
        batch = FeatureBatch(**{name: given.get(name, given["aatype"]) for name in FeatureBatch._fields})
        output = self.model(batch, recycled)
        named = {
            "positions": output.structure.positions,
            "atom_mask": output.structure.atom_mask,
            "plddt": output.plddt,
            "distogram": output.distogram,
            "pae": output.pae,
            "next_m_1": output.recycled.m_1,
            "next_z": output.recycled.z,
            "next_x": output.recycled.x,
        }
        return tuple(named[name] for name in self.outputs)


def feeds_of(batch: FeatureBatch, config: ModelConfig, previous: Mapping[str, np.ndarray] | None) -> Arrays:
    """The arrays of one pass: features (numpy, unbatched) and the outputs of the pass before, zeros where there was none."""
    schema = input_schema(config)
    feeds = {name: np.ascontiguousarray(getattr(batch, name), DTYPES[schema[name].kind]) for name in schema if name not in RECYCLED}
    sizes = {"N_res": len(batch.aatype)}
    for name, after in RECYCLED.items():
        zeros = np.zeros([d if isinstance(d, int) else sizes[d] for d in schema[name].dims], np.float32)
        feeds[name] = zeros if previous is None else np.ascontiguousarray(previous[after], np.float32)
    return feeds


def sizes_of(feeds: Mapping[str, np.ndarray], schema: Mapping[str, FieldSchema]) -> dict[str, int]:
    """Dimension name -> size of these arrays. Raises ValueError for a missing array or a shape that contradicts the schema."""
    sizes: dict[str, int] = {}
    for name, (_, dims) in schema.items():
        if name not in feeds:
            raise ValueError(f"input '{name}' is missing")
        shape = feeds[name].shape
        expected = tuple(d if isinstance(d, int) else sizes.setdefault(d, n) for d, n in zip(dims, shape, strict=False))
        if len(shape) != len(dims) or shape != expected:
            raise ValueError(f"input '{name}' has shape {shape}, the pass wants {dims} with {sizes}")
    return sizes


def pad_feeds(feeds: Mapping[str, np.ndarray], schema: Mapping[str, FieldSchema], sizes: Mapping[str, int]) -> Arrays:
    """Lengthen every dimension named in ``sizes`` to at least that size with zeros: masks are zero there, so nothing real changes."""
    padded = {}
    for name, (_, dims) in schema.items():
        shape = feeds[name].shape
        width = [(0, max(0, sizes.get(d, n) - n) if isinstance(d, str) else 0) for d, n in zip(dims, shape, strict=True)]
        padded[name] = np.pad(feeds[name], width)
    return padded


def crop_outputs(outputs: Mapping[str, np.ndarray], schema: Mapping[str, FieldSchema], n_res: int) -> Arrays:
    """Cut padded residues off the outputs."""
    return {name: value[tuple(slice(n_res if d == "N_res" else None) for d in schema[name].dims)] for name, value in outputs.items()}
