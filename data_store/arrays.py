"""Appending to and reading from the flat arrays of a store: zarr-python writes, tensorstore reads where it is given."""

from __future__ import annotations

import os
from collections.abc import Mapping
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


class ArrayReader:
    """Reads ranges of a store's arrays in the process that made it; make a new one behind a fork.

    ``tensorstore`` is that module, or None to read with zarr-python.
    """

    def __init__(self, root: Path, tensorstore: Any = None) -> None:
        self.process = os.getpid()
        self._root = root
        self._handles: dict[str, Any] = {}
        self._tensorstore = tensorstore

    def read(self, ranges: Mapping[str, tuple[int, int]], specs: Mapping[str, ArraySpec]) -> dict[str, np.ndarray]:
        """Elements ``start``..``stop`` of each named array, all requested at once. Raises ValueError or OSError for damaged files."""
        pending = {name: self._handle(name)[start:stop] for name, (start, stop) in ranges.items() if stop > start}
        if self._tensorstore is not None:
            futures = {name: view.read() for name, view in pending.items()}
            pending = {name: future.result() for name, future in futures.items()}
        for name, (start, stop) in ranges.items():
            expected = (max(stop - start, 0), *specs[name].tail)
            found = pending.setdefault(name, np.zeros(expected, specs[name].dtype))
            if found.shape != expected:
                raise ValueError(f"array '{name}' has {found.shape[0]} of the {expected[0]} elements from {start} on")
        return pending

    def whole(self, name: str) -> np.ndarray:
        """All of one array, read without tensorstore, so that a parent may open a store and fork its workers afterwards."""
        import zarr

        return np.asarray(zarr.open_array(str(self._root / name), mode="r")[...])

    def _handle(self, name: str) -> Any:
        if name not in self._handles:
            path = str(self._root / name)
            if self._tensorstore is not None:
                spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
                self._handles[name] = self._tensorstore.open(spec, read=True).result()
            else:
                import zarr

                self._handles[name] = zarr.open_array(path, mode="r")
        return self._handles[name]
