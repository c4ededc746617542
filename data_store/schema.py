"""The layout of a Foldline store: which files it has, and which arrays of which type, shape and chunk.

A store is a folder, one .zip file or an S3 prefix with ``manifest.json``, one index file and parts. A part is a Zarr v3 group of flat
arrays inside an uncompressed zip file: the zip takes the place of shards, its directory that of a shard's index, so a part of about
a thousand chains is one file, one chunk is one entry, and any Zarr reader opens it. Chains lie one behind another in the ``residues``
arrays, MSAs one behind another in the ``cells`` arrays (each MSA row by row), templates likewise; the small index arrays hold the
lengths from which every offset follows, so one chain is a handful of contiguous ranges. The index file is those columns of all parts.
``manifest.json`` is written last: a folder without it is not a store.
"""

from __future__ import annotations

from typing import NamedTuple

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
FORMAT = "foldline-store"
PARTS = "parts"  # the folder of the part files
CHAINS_PER_PART = 1_024


class ArraySpec(NamedTuple):
    """One array: what its first dimension counts (``axis``), the shape of one element (``tail``), elements per chunk."""

    axis: str  # residues, plddts, cells, template_residues (data); chains, msas, templates, characters (index)
    dtype: str
    tail: tuple[int, ...]
    chunk: int


_NUMBERS = 65_536  # elements of a few bytes
_MASKS = 4_096  # 37 bytes each
_ATOMS = 512  # 444 bytes each
_CELLS = 262_144
_DELETIONS = 524_288  # nearly all zero: cheap to read, and half the entries in a part's directory
_INDEX = 16_384  # a chunk is padded with zeros to its full size, so small parts pay for large ones
_CHARACTERS = 131_072

# What a chain's record is made of; read in ranges.
DATA_ARRAYS: dict[str, ArraySpec] = {
    "aatype": ArraySpec("residues", "int8", (), _NUMBERS),
    "residue_index": ArraySpec("residues", "int32", (), _NUMBERS),
    "positions": ArraySpec("residues", "float32", (37, 3), _ATOMS),
    "mask": ArraySpec("residues", "uint8", (37,), _MASKS),
    "plddt": ArraySpec("plddts", "float32", (), _NUMBERS),
    "msa": ArraySpec("cells", "uint8", (), _CELLS),
    "deletions": ArraySpec("cells", "uint8", (), _DELETIONS),
    "template_aatype": ArraySpec("template_residues", "int8", (), _NUMBERS),
    "template_positions": ArraySpec("template_residues", "float32", (37, 3), _ATOMS),
    "template_mask": ArraySpec("template_residues", "uint8", (37,), _MASKS),
}

# One element per chain, MSA or template; read whole when a store is opened.
INDEX_ARRAYS: dict[str, ArraySpec] = {
    "length": ArraySpec("chains", "int32", (), _INDEX),
    "n_msas": ArraySpec("chains", "int32", (), _INDEX),
    "n_templates": ArraySpec("chains", "int32", (), _INDEX),  # -1: no template search was made
    "has_plddt": ArraySpec("chains", "uint8", (), _INDEX),
    "largest_share": ArraySpec("chains", "float32", (), _INDEX),  # of the most frequent residue type, 0..1: a filter of training
    "resolution": ArraySpec("chains", "float64", (), _INDEX),
    "weight": ArraySpec("chains", "float64", (), _INDEX),
    "asym_id": ArraySpec("chains", "int32", (), _INDEX),
    "entity_id": ArraySpec("chains", "int32", (), _INDEX),
    "sym_id": ArraySpec("chains", "int32", (), _INDEX),
    "sha256": ArraySpec("chains", "uint8", (32,), _INDEX),
    "msa_depth": ArraySpec("msas", "int32", (), _INDEX),
    "template_sum_probs": ArraySpec("templates", "float32", (), _INDEX),
}

# Columns of text: UTF-8, each value closed by a line feed (so no value may hold one).
TEXT_ARRAYS: dict[str, ArraySpec] = {
    name: ArraySpec("characters", "uint8", (), _CHARACTERS)
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
