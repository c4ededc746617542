"""Appending to the flat arrays of a store with zarr-python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .schema import ArraySpec


def create_group(root: Path) -> None:
    """Make the empty folder ``root`` a Zarr v3 group."""
    import zarr

    zarr.create_group(str(root))


class ArrayAppender:
    """Appends blocks to one array of a store under construction, writing whole shards so that none is read back and rewritten."""

    def __init__(self, root: Path, name: str, spec: ArraySpec) -> None:
        import zarr
        from zarr.codecs import Crc32cCodec, ZstdCodec

        self._spec = spec
        self._blocks: list[np.ndarray] = []
        self._waiting = 0
        self._array: Any = zarr.create_array(
            store=str(root),
            name=name,
            shape=(0, *spec.tail),
            chunks=(spec.chunk, *spec.tail),
            shards=(spec.shard, *spec.tail),
            dtype=spec.dtype,
            compressors=[ZstdCodec(level=1), Crc32cCodec()],
            fill_value=0,
        )

    def append(self, block: np.ndarray) -> None:
        """Add ``block`` [n, *tail] behind what is there; its dtype must be the array's."""
        self._blocks.append(block)
        self._waiting += len(block)
        if self._waiting >= self._spec.shard:
            self._write(self._waiting // self._spec.shard * self._spec.shard)

    def close(self) -> None:
        """Write what is left."""
        if self._waiting:
            self._write(self._waiting)

    def _write(self, count: int) -> None:
        data = np.concatenate(self._blocks)
        start = self._array.shape[0]
        self._array.resize((start + count, *self._spec.tail))
        self._array[start : start + count] = data[:count]
        self._blocks = [data[count:].copy()]
        self._waiting = len(data) - count
