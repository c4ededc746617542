"""Milliseconds that one core needs for a training sample, beside parsing the same alignment from A3M text in plain Python.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/loader.py [--depth 10000] [--length 300] [--repeat 5]

The alignment is grown from a real one (``--a3m``, by default the deepest of examples/demo): its rows are repeated with random mutations
and its columns tiled. The peer is what a loader without a store does for every sample: read letters, count deletions, build the array.
Block deletion is off, so that every row counts; a real sample of this depth takes less.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from foldline.data_store.config import finetune, initial
from foldline.data_store.features.clusters import nearest_clusters, pack_rows
from foldline.data_store.featurize import training_sample
from foldline.data_store.parse.a3m import read_a3m
from foldline.data_store.residues import GAP, RESTYPE_INDEX, RESTYPES_X_GAP
from foldline.data_store.store import Store, StoreWriter
from foldline.data_store.types import ChainMetadata, ChainRecord, Msa

DEMO = Path(__file__).resolve().parents[1] / "examples" / "demo"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--a3m", type=Path, default=DEMO / "2hba_A.a3m.gz")
    parser.add_argument("--depth", type=int, default=10_000)
    parser.add_argument("--length", type=int, default=300)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    record = grown_record(args.a3m, args.depth, args.length)
    text = a3m_text(record.msas[0])
    parse = best(lambda: parse_in_python(text), args.repeat)
    with tempfile.TemporaryDirectory() as folder:
        with StoreWriter(Path(folder) / "store") as writer:
            writer.add(record)
        store = Store.open(Path(folder) / "store")
        read = best(lambda: store.record("grown"), args.repeat)
    print(f"alignment of {args.depth} x {args.length}, one core, best of {args.repeat}\n")
    print(f"{'plain Python: parse the A3M text':52} {parse:8.1f} ms     1.0x")
    print(f"{'read the record from the store':52} {read:8.1f} ms  {parse / read:6.1f}x")
    for name, preset in (("initial (256 / 124 / 1024)", initial()), ("finetune (384 / 508 / 5120)", finetune())):
        config = replace(preset, block_delete_count=0)
        one, four = (best(lambda n=n, c=config: training_sample(record, c, 1, n), args.repeat) for n in (1, 4))  # type: ignore[misc]
        print(f"{f'sample, {name}, 1 pass':52} {one:8.1f} ms  {parse / one:6.1f}x")
        print(f"{f'sample, {name}, each further pass':52} {(four - one) / 3:8.1f} ms  {parse / ((four - one) / 3):6.1f}x")
    compare_distances(record, args.repeat)


def compare_distances(record: ChainRecord, repeat: int) -> None:
    """The Hamming step alone: bit planes against the product of one-hot matrices, 124 centres, 256 columns."""
    rows = np.ascontiguousarray(record.msas[0].rows[:, :256])
    planes, centres = pack_rows(rows), rows[:124]
    one_hot = np.eye(22, dtype=np.float32)
    one_hot[GAP] = 0.0

    def product() -> np.ndarray:
        return (one_hot[rows].reshape(len(rows), -1) @ one_hot[centres].reshape(len(centres), -1).T).argmax(axis=1)

    if not np.array_equal(product(), nearest_clusters(planes, centres)):
        raise SystemExit("the two ways disagree")
    slow, fast = best(product, repeat), best(lambda: nearest_clusters(planes, centres), repeat)
    print(f"\n{'nearest centre, one-hot product':52} {slow:8.1f} ms     1.0x")
    print(f"{'nearest centre, bit planes':52} {fast:8.1f} ms  {slow / fast:6.1f}x")


def grown_record(path: Path, depth: int, length: int) -> ChainRecord:
    """A chain of ``length`` residues with an alignment of ``depth`` distinct rows, made of the one in ``path``."""
    rng = np.random.default_rng(0)
    real = read_a3m(path)
    tiles = -(-length // real.rows.shape[1])
    source = np.concatenate([np.arange(len(real.rows)), rng.integers(0, len(real.rows), max(0, depth - len(real.rows)))])[:depth]
    rows = np.tile(real.rows[source], (1, tiles))[:, :length]
    deletions = np.tile(real.deletions[source], (1, tiles))[:, :length]
    mutate = (rng.random(rows.shape) < 0.1) & (rows != GAP)
    mutate[0] = False
    rows = np.where(mutate, rng.integers(0, 20, rows.shape), rows).astype(np.uint8)
    return ChainRecord(
        metadata=ChainMetadata("grown"),
        sequence="".join(RESTYPES_X_GAP[i] for i in rows[0]),
        aatype=rows[0].astype(np.int8),
        residue_index=np.arange(length, dtype=np.int32),
        positions=np.zeros((length, 37, 3), np.float32),
        mask=np.ones((length, 37), np.uint8),
        msas=(Msa("grown", rows, deletions),),
    )


def a3m_text(msa: Msa) -> str:
    """The alignment as A3M."""
    lines = []
    for number, (row, deletions) in enumerate(zip(msa.rows.tolist(), msa.deletions.tolist(), strict=True)):
        lines.append(f">row{number}")
        lines.append("".join("a" * d + RESTYPES_X_GAP[r] for r, d in zip(row, deletions, strict=True)))
    return "\n".join(lines)


def parse_in_python(text: str) -> np.ndarray:
    """Letter by letter, as a loader that keeps alignments as text must for every sample."""
    codes = {**RESTYPE_INDEX, "-": GAP}
    rows, all_deletions = [], []
    for block in text.split(">")[1:]:
        row, deletions, count = [], [], 0
        for letter in block.partition("\n")[2].replace("\n", ""):
            if letter.islower():
                count += 1
            else:
                row.append(codes[letter])
                deletions.append(count)
                count = 0
        rows.append(row)
        all_deletions.append(deletions)
    return np.stack([np.array(rows, np.uint8), np.array(all_deletions, np.int32)])


def best(work: Callable[[], object], repeat: int) -> float:
    """Fastest of ``repeat`` runs behind one for warming up, in milliseconds of this process' processor time."""
    work()
    times = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


if __name__ == "__main__":
    main()
