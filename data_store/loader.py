"""Batches of tensors for one rank: deterministic, prepared ahead, resumable at any step. The only file of this package that needs torch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from ..errors import FoldlineError
from .compact import Sample, expand
from .config import DataConfig, FeatureConfig
from .prefetch import Patience, SamplePool
from .sampler import Cursor, open_order
from .types import FeatureBatch, Targets, TrainBatch, schema_of
from .worker import SampleMaker

B = TypeVar("B", FeatureBatch, Targets)
_DTYPES = {"int": torch.int64, "float": torch.float32}


class LoaderStats(NamedTuple):
    """How the loader keeps up: ``wait_seconds`` that the last batch was waited for, ``ready`` of at most ``ahead`` samples made and not
    yet used, workers ``replaced`` so far. Without workers a batch is made when it is asked for: nothing is ever ready.
    """

    wait_seconds: float
    ready: int
    ahead: int
    replaced: int


def to_torch(batch: B) -> B:
    """numpy fields -> tensors, int64 or float32 as the schema says; dimensions are kept, memory is shared where the types are right."""
    schema = schema_of(type(batch))
    return type(batch)(*(torch.as_tensor(np.asarray(v), dtype=_DTYPES[schema[n].kind]) for n, v in batch._asdict().items()))


def collate(samples: Sequence[Sample]) -> TrainBatch:
    """Compact samples -> one TrainBatch of tensors with leading B, padded with zeros (mask 0) to the largest of their sizes.

    What is the same in every pass shares its memory. ValueError when the numbers of passes differ.
    """
    cycles, targets, position = expand(samples)
    return TrainBatch(tuple(to_torch(features) for features in cycles), to_torch(targets), torch.from_numpy(position))


class TrainLoader:
    """Endless iterator over the micro-batches of one rank, from step ``start_step`` on.

    Sample i of rank r in step s is the one at position (s x world + r) x micro_batch + i of the run's order, so ranks never share
    a sample and together see what one rank with a larger micro-batch would. ``accumulate`` steps in a row have the same number of passes:
    they are one step of the optimizer. A run that goes on with another ``world`` or ``micro_batch`` gives ``start_position``, the samples
    consumed so far (``consumed.position`` of the loader before), where positions go on. Use as a context manager, or ``close`` it.

    With ``data.workers`` memory is bounded: ``data.prefetch`` batches of compact samples (see ``compact.py``; at least one sample more than
    there are workers) wait or are under way, and one expanded batch is ready beside the one in use.

    Raises FoldlineError for a store that is not there, chain ids that it lacks, and a selection without any chain; while iterating, for
    a sample that cannot be made, which ends the iteration. A store that goes away meanwhile is waited for ``data.store_patience`` seconds
    (none given: not at all), then StoreUnreachableError.
    """

    def __init__(
        self,
        store_path: Path | str,
        data: DataConfig,
        features: FeatureConfig,
        *,
        rank: int = 0,
        world: int = 1,
        micro_batch: int = 1,
        start_step: int = 0,
        start_position: int | None = None,
        accumulate: int = 1,
    ) -> None:
        position = start_step * world * micro_batch if start_position is None else start_position
        if not (0 <= rank < world and micro_batch >= 1 and start_step >= 0 and position >= 0 and accumulate >= 1):
            place = f"rank {rank} of {world}, micro-batch {micro_batch}, step {start_step}, position {position}"
            raise FoldlineError(f"{place}: not a place in a run")
        self.order = open_order(store_path, data, features)
        self.consumed = Cursor(position, start_step)  # by all ranks together
        self._per_step, self._batch = world * micro_batch, micro_batch
        tasks = self.order.share(self.consumed, rank, world, micro_batch, accumulate)
        store_patience = data.store_patience or 0.0
        self._pool: SamplePool | None = None
        self._samples: Iterator[Sample]
        if data.workers:
            patience = Patience(data.slow_sample_seconds, data.stuck_sample_seconds, store_patience)
            self._pool = SamplePool(store_path, features, data.workers, data.prefetch * micro_batch, patience)
            self._samples = self._pool.results(tasks)
        else:
            self._samples = map(SampleMaker(store_path, features, store_patience), tasks)
        self._expander = ThreadPoolExecutor(1) if self._pool else None
        self._next: Future[TrainBatch | None] | None = None
        self._waited = 0.0

    @property
    def stats(self) -> LoaderStats:
        """Cheap: to be read every step."""
        pool = self._pool
        return LoaderStats(self._waited, pool.ready, pool.ahead, pool.replaced) if pool else LoaderStats(self._waited, 0, 0, 0)

    def __iter__(self) -> TrainLoader:
        return self

    def __next__(self) -> TrainBatch:
        start = time.perf_counter()
        try:
            batch = self._prepared() if self._expander else self._make()
        except FoldlineError:
            self.close()
            raise
        if batch is None:
            raise StopIteration
        self._waited = time.perf_counter() - start
        self.consumed = Cursor(self.consumed.position + self._per_step, self.consumed.step + 1)
        return batch

    def __enter__(self) -> TrainLoader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, if there are any, and the iteration."""
        if self._pool:
            self._pool.close()
        if self._expander:
            self._expander.shutdown(wait=True, cancel_futures=True)
        self._expander, self._next, self._samples = None, None, iter(())

    def _prepared(self) -> TrainBatch | None:
        """The batch that the expander's thread has made meanwhile; it goes on with the one after it."""
        assert self._expander
        future = self._next or self._expander.submit(self._make)
        batch = future.result()
        self._next = self._expander.submit(self._make)
        return batch

    def _make(self) -> TrainBatch | None:
        """The next batch, or None behind the end."""
        samples = list(islice(self._samples, self._batch))
        return collate(samples) if len(samples) == self._batch else None
