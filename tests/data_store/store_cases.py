"""Random and real chains for the tests of the store and of what fills it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from foldline.data_store.features.msa import unique_rows
from foldline.data_store.residues import decode_sequence
from foldline.data_store.types import ChainMetadata, ChainRecord, Msa, Templates

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo"
DATA = Path(os.environ.get("FOLDLINE_DATA", ROOT / ".." / "shared" / "data")).resolve()


def need_data(part: str) -> Path:
    """A folder or file of the larger data collection; the test is skipped where it is missing."""
    path = DATA / part
    if not path.exists():
        pytest.skip(f"{path} is missing: set FOLDLINE_DATA to the data collection")
    return path


def random_record(
    rng: np.random.Generator,
    chain_id: str,
    length: int,
    depths: tuple[int, ...] = (1,),
    templates: int | None = None,
    plddt: bool = False,
) -> ChainRecord:
    """A chain of noise: every field filled, floats of all kinds among the positions."""
    aatype = rng.integers(0, 21, length).astype(np.int8)
    msas = []
    for i, depth in enumerate(depths):
        rows = rng.integers(0, 22, (depth, length)).astype(np.uint8)
        if i == 0:
            rows[0] = aatype
        msas.append(Msa(f"msa{i}", rows, rng.integers(0, 256, (depth, length)).astype(np.uint8)))
    found = None
    if templates is not None:
        found = Templates(
            aatype=rng.integers(0, 22, (templates, length)).astype(np.int8),
            positions=rng.normal(0, 50, (templates, length, 37, 3)).astype(np.float32),
            mask=rng.integers(0, 2, (templates, length, 37)).astype(np.uint8),
            names=tuple(f"{i}abc_A" for i in range(templates)),
            sum_probs=rng.random(templates).astype(np.float32),
        )
    positions = rng.normal(0, 50, (length, 37, 3)).astype(np.float32)
    positions[rng.random((length, 37)) < 0.4] = -0.0
    numbers = [int(n) for n in rng.integers(1, 99, 3)]
    return ChainRecord(
        metadata=ChainMetadata(
            chain_id,
            pdb_id=chain_id[:4],
            release_date="2004-02-29",
            resolution=float(rng.random()),
            method="Größe",
            source="distillation" if plddt else "experimental",
            cluster_id=f"cluster {numbers[0]}",
            weight=float(rng.random()),
            asym_id=numbers[0],
            entity_id=numbers[1],
            sym_id=numbers[2],
            title="a title, with é",
        ),
        sequence=decode_sequence(aatype),
        aatype=aatype,
        residue_index=np.sort(rng.integers(0, 999, length)).astype(np.int32),
        positions=positions,
        mask=rng.integers(0, 2, (length, 37)).astype(np.uint8),
        msas=unique_rows(msas),
        templates=found,
        plddt=(rng.random(length) * 100).astype(np.float32) if plddt else None,
    )


def assert_same(one: ChainRecord, other: ChainRecord) -> None:
    """Every value equal to the bit, every type and shape too."""
    assert one.metadata == other.metadata
    assert one.sequence == other.sequence
    for name in ("aatype", "residue_index", "positions", "mask"):
        _assert_same_array(getattr(one, name), getattr(other, name))
    assert [m.name for m in one.msas] == [m.name for m in other.msas]
    for a, b in zip(one.msas, other.msas, strict=True):
        _assert_same_array(a.rows, b.rows)
        _assert_same_array(a.deletions, b.deletions)
    assert (one.templates is None) == (other.templates is None)
    if one.templates is not None and other.templates is not None:
        assert one.templates.names == other.templates.names
        for name in ("aatype", "positions", "mask", "sum_probs"):
            _assert_same_array(getattr(one.templates, name), getattr(other.templates, name))
    assert (one.plddt is None) == (other.plddt is None)
    if one.plddt is not None and other.plddt is not None:
        _assert_same_array(one.plddt, other.plddt)


def _assert_same_array(one: np.ndarray, other: np.ndarray) -> None:
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    assert one.tobytes() == other.tobytes()
