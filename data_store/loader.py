"""Batches of tensors for one rank: deterministic, prepared ahead, resumable at any step. The only file of this package that needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
import torch

from ..errors import FoldlineError
from .config import DataConfig, FeatureConfig
from .features.crop import pad
from .prefetch import SampleMaker, SamplePool
from .sampler import Cursor, open_order
from .types import FeatureBatch, Targets, TrainBatch, schema_of

B = TypeVar("B", FeatureBatch, Targets)
_DTYPES = {"int": torch.int64, "float": torch.float32}


def to_torch(batch: B) -> B:
    """numpy fields -> tensors, int64 or float32 as the schema says; dimensions are kept."""
    schema = schema_of(type(batch))
    return type(batch)(*(torch.as_tensor(np.asarray(v), dtype=_DTYPES[schema[n].kind]) for n, v in batch._asdict().items()))


def collate(samples: Sequence[TrainBatch]) -> TrainBatch:
    """numpy samples without a batch dimension -> one TrainBatch of tensors with leading B.

    Samples of different sizes are padded with zeros (mask 0) to the largest. ValueError when their numbers of passes differ.
    """
    cycles = tuple(_stack(list(passes)) for passes in zip(*(s.cycles for s in samples), strict=True))
    targets = _stack([s.targets for s in samples])
    return TrainBatch(cycles, targets, torch.as_tensor([int(s.position) for s in samples], dtype=torch.int64))


class TrainLoader:
    """Endless iterator over the micro-batches of one rank, from step ``start_step`` on.

    Sample i of rank r in step s is the one at position (s x world + r) x micro_batch + i of the run's order, so ranks never share
    a sample and together see what one rank with a larger micro-batch would. ``accumulate`` steps in a row have the same number of passes:
    they are one step of the optimizer. Use as a context manager, or call ``close``.

    Raises FoldlineError for a store that is not there, chain ids that it lacks, and a selection without any chain; while iterating, for
    a sample that cannot be made, which ends the iteration.
    """

    def __init__(
        self,
        store_path: Path,
        data: DataConfig,
        features: FeatureConfig,
        *,
        rank: int = 0,
        world: int = 1,
        micro_batch: int = 1,
        start_step: int = 0,
        accumulate: int = 1,
    ) -> None:
        if not (0 <= rank < world and micro_batch >= 1 and start_step >= 0 and accumulate >= 1):
            raise FoldlineError(f"rank {rank} of {world}, micro-batch {micro_batch}, step {start_step}: not a place in a run")
        self.order = open_order(store_path, data, features)
        self._batch = micro_batch
        self._pool = SamplePool(store_path, features, data.workers, data.prefetch * micro_batch) if data.workers else None
        tasks = self.order.share(Cursor(start_step * world * micro_batch, start_step), rank, world, micro_batch, accumulate)
        self._samples: Iterator[TrainBatch] = self._pool.results(tasks) if self._pool else map(SampleMaker(store_path, features), tasks)

    def __iter__(self) -> TrainLoader:
        return self

    def __next__(self) -> TrainBatch:
        try:
            samples = list(islice(self._samples, self._batch))
        except FoldlineError:
            self.close()
            raise
        if len(samples) < self._batch:  # closed
            raise StopIteration
        return collate(samples)

    def __enter__(self) -> TrainLoader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, if there are any, and the iteration."""
        self._samples = iter(())
        if self._pool:
            self._pool.close()


def _stack(batches: Sequence[B]) -> B:
    kind = type(batches[0])
    sizes: dict[str, int] = {}
    for name, schema in schema_of(kind).items():
        for batch in batches:
            for dim, size in zip(schema.dims, getattr(batch, name).shape, strict=True):
                sizes[str(dim)] = max(sizes.get(str(dim), 0), size)
    padded = [to_torch(pad(batch, sizes)) for batch in batches]
    return kind(*(torch.stack(values) for values in zip(*padded, strict=True)))
