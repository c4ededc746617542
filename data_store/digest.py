"""SHA-256 digests: of one chain's content, of a whole store's content, of files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .types import ChainRecord

_BLOCK = 1 << 20


def record_digest(record: ChainRecord) -> bytes:
    """The 32 bytes that stand for everything in ``record``: equal content, equal digest, whatever the store's chunks are."""
    digest = hashlib.sha256()

    def add(label: str, array: np.ndarray) -> None:
        digest.update(f"{label}:{array.dtype.str}:{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).tobytes())

    digest.update(json.dumps(dataclasses.asdict(record.metadata), sort_keys=True).encode())
    digest.update(record.sequence.encode())
    for name in ("aatype", "residue_index", "positions", "mask"):
        add(name, getattr(record, name))
    for msa in record.msas:
        add(f"msa {msa.name}", msa.rows)
        add("deletions", msa.deletions)
    if record.templates is not None:
        digest.update(json.dumps(record.templates.names).encode())
        for name in ("aatype", "positions", "mask", "sum_probs"):
            add(f"template {name}", getattr(record.templates, name))
    if record.plddt is not None:
        add("plddt", record.plddt)
    return digest.digest()


def content_digest(schema_version: int, chains: Iterable[tuple[str, bytes]]) -> str:
    """Hex digest over (chain id, record digest) pairs, independent of their order."""
    digest = hashlib.sha256(f"foldline store, schema {schema_version}\n".encode())
    for chain_id, chain_digest in sorted(chains):
        digest.update(f"{chain_id} {chain_digest.hex()}\n".encode())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
