"""The layout of a Foldline store: which arrays there are, of which type, shape, chunk and shard.

A store is a Zarr v3 group of flat arrays. Chains lie one behind another in the ``residues`` arrays, MSAs one behind another in the
``cells`` arrays (each MSA row by row), templates likewise. The small index arrays hold the lengths from which every offset follows.
So the number of files does not grow with the number of chains, and one chain is a handful of contiguous ranges.
``manifest.json`` is written last: a folder without it is not a store.
"""

from __future__ import annotations

from typing import NamedTuple

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
FORMAT = "foldline-store"


class ArraySpec(NamedTuple):
    """One array: what its first dimension counts (``axis``), the shape of one element (``tail``), elements per chunk and shard."""

    axis: str  # residues, plddts, cells, template_residues (data); chains, msas, templates, characters (index)
    dtype: str
    tail: tuple[int, ...]
    chunk: int
    shard: int


_RESIDUES = (256, 16_384)
_CELLS = (131_072, 16_777_216)
_INDEX = (65_536, 1_048_576)

# What a chain's record is made of; read in ranges.
DATA_ARRAYS: dict[str, ArraySpec] = {
    "aatype": ArraySpec("residues", "int8", (), *_RESIDUES),
    "residue_index": ArraySpec("residues", "int32", (), *_RESIDUES),
    "positions": ArraySpec("residues", "float32", (37, 3), *_RESIDUES),
    "mask": ArraySpec("residues", "uint8", (37,), *_RESIDUES),
    "plddt": ArraySpec("plddts", "float32", (), *_RESIDUES),
    "msa": ArraySpec("cells", "uint8", (), *_CELLS),
    "deletions": ArraySpec("cells", "uint8", (), *_CELLS),
    "template_aatype": ArraySpec("template_residues", "int8", (), *_RESIDUES),
    "template_positions": ArraySpec("template_residues", "float32", (37, 3), *_RESIDUES),
    "template_mask": ArraySpec("template_residues", "uint8", (37,), *_RESIDUES),
}

# One element per chain, MSA or template; read whole when a store is opened.
INDEX_ARRAYS: dict[str, ArraySpec] = {
    "length": ArraySpec("chains", "int32", (), *_INDEX),
    "n_msas": ArraySpec("chains", "int32", (), *_INDEX),
    "n_templates": ArraySpec("chains", "int32", (), *_INDEX),  # -1: no template search was made
    "has_plddt": ArraySpec("chains", "uint8", (), *_INDEX),
    "largest_share": ArraySpec("chains", "float32", (), *_INDEX),  # of the most frequent residue type, 0..1: a filter of training
    "resolution": ArraySpec("chains", "float64", (), *_INDEX),
    "weight": ArraySpec("chains", "float64", (), *_INDEX),
    "asym_id": ArraySpec("chains", "int32", (), *_INDEX),
    "entity_id": ArraySpec("chains", "int32", (), *_INDEX),
    "sym_id": ArraySpec("chains", "int32", (), *_INDEX),
    "sha256": ArraySpec("chains", "uint8", (32,), *_INDEX),
    "msa_depth": ArraySpec("msas", "int32", (), *_INDEX),
    "template_sum_probs": ArraySpec("templates", "float32", (), *_INDEX),
}

# Columns of text: UTF-8, each value closed by a line feed (so no value may hold one).
TEXT_ARRAYS: dict[str, ArraySpec] = {
    name: ArraySpec("characters", "uint8", (), *_INDEX)
    for name in (
        "chain_id",
        "pdb_id",
        "release_date",
        "method",
        "source",
        "cluster_id",
        "title",
        "msa_name",
        "template_name",
    )
}

ALL_ARRAYS: dict[str, ArraySpec] = {**DATA_ARRAYS, **INDEX_ARRAYS, **TEXT_ARRAYS}

# The ChainMetadata fields that are columns of their own, by the kind of array.
METADATA_TEXT = ("chain_id", "pdb_id", "release_date", "method", "source", "cluster_id", "title")
METADATA_NUMBERS = ("resolution", "weight", "asym_id", "entity_id", "sym_id")
