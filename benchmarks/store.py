"""Inodes, bytes and reading times of the store beside the same alignments as gzip A3M, in ratios.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/store.py [--data ../shared/data] [--chains 64] [--depth 10000] [--length 300] [--repeat 5]

Real alignments (``DATA/msas``, or examples/demo) are stored and written out again as gzip A3M with short names, so both hold the same
rows and deletions. A deep alignment grown from a real one stands for those of full databases. The part of a training sample: a random
quarter of the rows in five contiguous blocks. Times are of this process' processor, best of ``--repeat``.
"""

from __future__ import annotations

import argparse
import gzip
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from loader import DEMO, a3m_text, best, grown_record
from text_peers import as_openfold

from foldline.data_store import store as store_module
from foldline.data_store.parse.a3m import read_a3m
from foldline.data_store.residues import RESTYPES_X_GAP
from foldline.data_store.schema import CHAINS_PER_PART, DATA_ARRAYS
from foldline.data_store.store import Store, StoreWriter
from foldline.data_store.types import ChainMetadata, ChainRecord, Msa

_MSA_ARRAYS = ("msa", "deletions")


def main() -> None:
    """Print the tables."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FOLDLINE_DATA", root / ".." / "shared" / "data")))
    parser.add_argument("--chains", type=int, default=64)
    parser.add_argument("--depth", type=int, default=10_000)
    parser.add_argument("--length", type=int, default=300)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        real = real_records(args.data, args.chains)
        sizes(work / "real", f"{len(real)} real alignments", real)
        deep = grown_record(DEMO / "2hba_A.a3m.gz", args.depth, args.length)
        sizes(work / "deep", f"one grown to {args.depth} x {args.length}", [deep])
        inodes(work / "many", real)
        times(work, deep, args.repeat)


def real_records(data: Path, count: int) -> list[ChainRecord]:
    """Chains with the alignments of the collection, and no structure."""
    files = sorted((data / "msas").glob("*.a3m*")) or sorted(DEMO.rglob("*.a3m.gz"))
    step = max(1, len(files) // count)
    records = []
    for path in files[::step][:count]:
        msa = read_a3m(path)
        if (msa.rows[0] > 20).any():
            continue
        records.append(as_record(path.name.partition(".")[0], msa.rows, msa.deletions))
    return records


def as_record(chain_id: str, rows: np.ndarray, deletions: np.ndarray) -> ChainRecord:
    """A chain without coordinates."""
    length = rows.shape[1]
    return ChainRecord(
        metadata=ChainMetadata(chain_id),
        sequence="".join(RESTYPES_X_GAP[i] for i in rows[0]),
        aatype=rows[0].astype(np.int8),
        residue_index=np.arange(length, dtype=np.int32),
        positions=np.zeros((length, 37, 3), np.float32),
        mask=np.zeros((length, 37), np.uint8),
        msas=(Msa("msa", rows.astype(np.uint8), np.minimum(deletions, 255).astype(np.uint8)),),
    )


def write(path: Path, records: list[ChainRecord]) -> Store:
    """A store of ``records``."""
    with StoreWriter(path) as writer:
        for record in records:
            writer.add(record)
    return Store.open(path)


def sizes(path: Path, title: str, records: list[ChainRecord]) -> None:
    """The whole store, index included, against gzip A3M of the same rows."""
    total = sum(file.bytes for file in write(path, records).manifest.files())
    packed = sum(len(gzip.compress(a3m_text(record.msas[0]).encode(), 6)) for record in records)
    print(f"{title:44} store {total / 1e6:8.2f} MB   gzip A3M {packed / 1e6:8.2f} MB   ratio {total / packed:.2f}")


def inodes(path: Path, records: list[ChainRecord]) -> None:
    """Files and folders of a store of a part and a bit, counted."""
    count = 2 * CHAINS_PER_PART
    small = [record for record in records if record.msas[0].rows.size < 50_000] or records[:1]
    shallow = [replace(small[i % len(small)], metadata=ChainMetadata(f"c{i}")) for i in range(count)]
    write(path, shallow)
    found = 1 + sum(1 for _ in path.rglob("*"))
    fixed = found - count // CHAINS_PER_PART
    print(f"{count} chains: {found} inodes, {fixed} of them whatever the size; at 100,000 chains 1 per {100_000 / (fixed + 98):.0f}\n")


def times(work: Path, record: ChainRecord, repeat: int) -> None:
    """Reading all rows and a sample's rows with both readers, and parsing."""
    packed = gzip.compress(a3m_text(record.msas[0]).encode(), 6)
    (work / "deep.a3m.gz").write_bytes(packed)
    depth = len(record.msas[0].rows)
    rng = np.random.default_rng(0)
    block = depth // 20
    rows = np.unique(np.concatenate([np.arange(start, start + block) for start in rng.integers(0, depth - block, 5)]))
    parse = best(lambda: read_a3m(work / "deep.a3m.gz"), repeat)
    slow = best(lambda: as_openfold(gzip.decompress(packed).decode()), 1)
    print(f"{'gzip A3M, this package parses it':52} {parse:8.1f} ms     1.0x")
    print(f"{'gzip A3M, parsed as OpenFold does':52} {slow:8.1f} ms  {parse / slow:6.2f}x")
    tensorstore_or_none = store_module.tensorstore_or_none
    for reader in ("tensorstore", "zarr-python"):
        store_module.tensorstore_or_none = tensorstore_or_none if reader == "tensorstore" else lambda: None
        store = Store.open(work / "deep")
        opened = best(lambda s=store: first_record(s), repeat)  # type: ignore[misc]
        whole = best(lambda s=store: s.record("grown"), repeat)  # type: ignore[misc]
        some = best(lambda s=store: s.record("grown", rows), repeat)  # type: ignore[misc]
        print(f"{f'{reader}, all {depth} rows, part opened for it':52} {opened:8.1f} ms  {parse / opened:6.1f}x")
        print(f"{f'{reader}, all {depth} rows':52} {whole:8.1f} ms  {parse / whole:6.1f}x")
        print(f"{f'{reader}, {len(rows)} rows in five blocks':52} {some:8.1f} ms  {parse / some:6.1f}x")
    store_module.tensorstore_or_none = tensorstore_or_none
    chunks = {name: DATA_ARRAYS[name].chunk for name in _MSA_ARRAYS}
    print(f"chunks of {chunks} cells")


def first_record(store: Store) -> ChainRecord:
    """A record read by a worker that meets its part for the first time."""
    store._reader = None
    return store.record("grown")


if __name__ == "__main__":
    main()
