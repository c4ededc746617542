"""Milliseconds that one core needs for a training sample, beside reading the same alignment from A3M text and beside copying the sample.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/loader.py [--depth 10000] [--lengths 300 700] [--repeat 5]
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/loader.py --soak 10000

The alignment is grown from a real one (``--a3m``, by default the deepest of examples/demo): its rows are repeated with random mutations
and its columns tiled. A sample is timed whole: rows read from the store, featurized, pickled as a worker does, unpickled and expanded as
the trainer does; each pass beyond the first is a line of its own. "Every row" has block deletion off, so that the whole alignment counts;
"as trained" has AF2's block deletion, the mean over seeds. The peers (see text_peers.py) make no features, they only parse.
``--soak`` makes that many samples of the demo in one worker and prints its resident memory on the way.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from text_peers import as_openfold, in_one_pass

from foldline.data_store.compact import Sample, expand
from foldline.data_store.config import DataConfig, FeatureConfig, finetune, initial
from foldline.data_store.features.clusters import nearest_clusters, pack_rows
from foldline.data_store.features.msa import unique_rows
from foldline.data_store.parse.a3m import read_a3m
from foldline.data_store.residues import GAP, RESTYPES_X_GAP
from foldline.data_store.sampler import SampleTask
from foldline.data_store.store import Store, StoreWriter
from foldline.data_store.types import ChainMetadata, ChainRecord, Msa
from foldline.data_store.worker import SampleMaker

DEMO = Path(__file__).resolve().parents[1] / "examples" / "demo"
SEEDS = 10
COPIES = 15
_NAME = 46


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--a3m", type=Path, default=DEMO / "2hba_A.a3m.gz")
    parser.add_argument("--depth", type=int, default=10_000)
    parser.add_argument("--lengths", type=int, nargs="+", default=[300, 700])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--soak", type=int, metavar="SAMPLES", help="only this: memory of a worker over so many samples")
    args = parser.parse_args()
    if args.soak:
        soak(args.soak)
        return
    bandwidth = copy_bandwidth(args.repeat)
    print(f"one core; memory is copied at {bandwidth / 1e9:.1f} GB/s")
    for length in args.lengths:
        record = grown_record(args.a3m, args.depth, length)
        compare_with_text(record, bandwidth, args.repeat)
        compare_distances(record, args.repeat)


def compare_with_text(record: ChainRecord, bandwidth: float, repeat: int) -> None:
    """The table of one alignment."""
    text = a3m_text(record.msas[0])
    if not all(np.array_equal(p(text), (record.msas[0].rows, record.msas[0].deletions)) for p in (as_openfold, in_one_pass)):
        raise SystemExit("the peers read something else")
    peer, plain = best(lambda: as_openfold(text), repeat), best(lambda: in_one_pass(text), repeat)
    print(f"\nalignment of {' x '.join(map(str, record.msas[0].rows.shape))}, ms of processor time")
    print(f"{'':{_NAME}} {'ms':>8} {'OpenFold/':>10} {'plain/':>7}   of it: worker, expanding; MB: sent, expanded; copy floor ms")
    print(f"{'A3M text, parsed step by step as OpenFold does':{_NAME}} {peer:8.1f} {1:9.1f}x {plain / peer:6.1f}x")
    print(f"{'A3M text, parsed in one plain loop':{_NAME}} {plain:8.1f} {peer / plain:9.1f}x {1:6.1f}x")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        names = write_copies(record, path)
        store = Store.open(path)
        read = best(lambda: store.record(next(names)), repeat)
        print(f"{'the same arrays read from the store':{_NAME}} {read:8.1f} {peer / read:9.1f}x {plain / read:6.1f}x")
        compare_samples(path, peer, plain, bandwidth, repeat)


def compare_samples(path: Path, peer: float, plain: float, bandwidth: float, repeat: int) -> None:
    """The lines of whole samples."""
    for name, preset in (("initial 256/124+1024", initial()), ("finetune 384/508+5120", finetune())):
        for kind, blocks, seeds in (("every row", 0, [0] * repeat), ("as trained", preset.block_delete_count, list(range(SEEDS)))):
            config = replace(preset, block_delete_count=blocks)
            times = sample_times(path, config, seeds)
            worker, trainer, further = times.mean(axis=1) if blocks else times.min(axis=1)
            sent, expanded = sample_bytes(path, config)
            total = worker + trainer
            tail = f"   {worker:6.1f} {trainer:5.1f};  {sent / 1e6:5.2f} {expanded / 1e6:6.2f}; {1e3 * expanded / bandwidth:5.1f}"
            print(f"{f'{name}, {kind}, one pass':{_NAME}} {total:8.1f} {peer / total:9.1f}x {plain / total:6.1f}x{tail}")
            print(f"{'    each further pass':{_NAME}} {further:8.1f}")


def sample_times(path: Path, config: FeatureConfig, seeds: list[int]) -> np.ndarray:
    """Milliseconds [3, N_seeds]: the worker's share of a sample of one pass, the trainer's, and both for one more pass."""
    make, names = SampleMaker(path, config), cycle(Store.open(path).chain_ids)

    def one(seed: int, n_cycles: int) -> tuple[float, float]:
        start = time.process_time()
        message = pickle.dumps(make(SampleTask(0, next(names), seed, n_cycles)), 5)
        between = time.process_time()
        expand([pickle.loads(message)])
        return 1e3 * (between - start), 1e3 * (time.process_time() - between)

    one(0, 1)
    rows = []
    for seed in seeds:
        single, double = one(seed, 1), one(seed, 2)
        rows.append((*single, sum(double) - sum(single)))
    return np.array(rows).T


def sample_bytes(path: Path, config: FeatureConfig) -> tuple[int, int]:
    """Bytes of a sample of one pass, as it is sent and as the network reads it."""
    sample: Sample = SampleMaker(path, config)(SampleTask(0, "grown_0", 0, 1))
    batch = expand([sample])
    return len(pickle.dumps(sample, 5)), sum(value.nbytes for value in (*batch.targets, *batch.cycles[0]))


def write_copies(record: ChainRecord, path: Path) -> Iterator[str]:
    """A store of so many chains like ``record`` that none is still in the reader's cache when it comes up again; their names, endlessly."""
    with StoreWriter(path) as writer:
        for number in range(COPIES):
            writer.add(replace(record, metadata=ChainMetadata(f"grown_{number}")))
    return cycle([f"grown_{number}" for number in range(COPIES)])


def copy_bandwidth(repeat: int) -> float:
    """Bytes per second at which numpy copies an array far larger than the caches."""
    source = np.ones(2**28, np.uint8)
    target = np.zeros_like(source)
    return source.nbytes / (1e-3 * best(lambda: np.copyto(target, source), repeat))


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
    slow, fast = best(product, repeat), best(lambda: nearest_clusters(pack_rows(rows), centres), repeat)
    print(f"{'nearest of 124 centres, one-hot product':{_NAME}} {slow:8.1f}")
    print(f"{'nearest of 124 centres, bit planes':{_NAME}} {fast:8.1f}  ({slow / fast:.1f}x)")


def soak(samples: int) -> None:
    """Resident memory of one worker while it makes ``samples`` small samples of the demo's chains."""
    import psutil

    from foldline.data_store.fold_input import read_fold_input
    from foldline.data_store.loader import TrainLoader

    features = FeatureConfig(crop_size=32, max_msa_clusters=8, max_extra_msa=16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        with StoreWriter(path) as writer:
            for record in read_fold_input(DEMO):
                writer.add(record)
        with TrainLoader(path, DataConfig(workers=1, prefetch=8), features) as loader:
            assert loader._pool
            for number, _ in enumerate(islice(loader, samples), 1):
                if number == 1:
                    worker = psutil.Process(loader._pool._slots[0].worker.pid)
                if number in (1, 100) or number % (samples // 10) == 0:
                    print(f"{number:8d} samples: worker {worker.memory_info().rss / 2**20:7.1f} MiB", flush=True)


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
        msas=unique_rows((Msa("grown", rows, deletions),)),
    )


def a3m_text(msa: Msa) -> str:
    """The alignment as A3M."""
    lines = []
    for number, (row, deletions) in enumerate(zip(msa.rows.tolist(), msa.deletions.tolist(), strict=True)):
        lines.append(f">row{number}")
        lines.append("".join("a" * d + RESTYPES_X_GAP[r] for r, d in zip(row, deletions, strict=True)))
    return "\n".join(lines)


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
