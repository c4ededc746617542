"""Zarr arrays in a part file: zarr-python writes whole chunks straight into the zip, tensorstore or zarr-python reads ranges of them."""

from __future__ import annotations

import os
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .places import Place
from .schema import ArraySpec

_CHUNKS_AT_ONCE = 8  # what an array collects before it is written
_OPEN_PARTS = 16  # parts whose directories are kept in memory
_CACHE_BYTES = 64 << 20  # of zip directories in tensorstore; chunks are not kept, the next sample is another chain
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)
_MODE = 0o644 << 16

Range = tuple[int, int]


class ZipSink:
    """A zip file in the making: entries are uncompressed, in the order given, all of one date, so equal content gives equal bytes."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path, "x", zipfile.ZIP_STORED)

    def add(self, name: str, data: bytes) -> None:
        """Append one entry."""
        self._archive.writestr(zip_entry(name), data)

    def close(self) -> None:
        """Write the directory."""
        self._archive.close()


def zip_entry(name: str) -> zipfile.ZipInfo:
    """The header of an uncompressed entry, the same whenever and wherever it is made."""
    entry = zipfile.ZipInfo(name, _TIMESTAMP)
    entry.external_attr, entry.create_system = _MODE, 3
    return entry


class GroupWriter:
    """A Zarr group under construction in the zip file ``path``. Chunks go to the file as they fill up; what is in memory at a time is
    a few chunks of each array."""

    def __init__(self, path: Path, specs: Mapping[str, ArraySpec]) -> None:
        import zarr
        from zarr.codecs import Crc32cCodec, ZstdCodec

        self._sink = ZipSink(path)
        self._memory: dict[str, Any] = {}
        store = zarr.storage.MemoryStore(self._memory)
        zarr.create_group(store)
        self._specs, self._waiting = specs, {name: list[np.ndarray]() for name in specs}
        self._arrays: dict[str, Any] = {
            name: zarr.create_array(
                store,
                name=name,
                shape=(0, *spec.tail),
                chunks=(spec.chunk, *spec.tail),
                dtype=spec.dtype,
                compressors=[ZstdCodec(level=1), Crc32cCodec()],
                fill_value=0,
            )
            for name, spec in specs.items()
        }

    def append(self, name: str, block: np.ndarray) -> None:
        """Add ``block`` [n, *tail] behind what array ``name`` holds; its dtype must be the array's."""
        chunk = self._specs[name].chunk
        batch = chunk * _CHUNKS_AT_ONCE
        for first in range(0, len(block), batch):
            self._waiting[name].append(block[first : first + batch])
            count = sum(map(len, self._waiting[name]))
            if count >= batch:
                self._write(name, count // chunk * chunk)

    def close(self) -> None:
        """Write what is left, then the arrays' metadata."""
        for name, waiting in self._waiting.items():
            if count := sum(map(len, waiting)):
                self._write(name, count)
        for name in sorted(self._memory):
            self._sink.add(name, self._memory[name].to_bytes())
        self._sink.close()

    def abandon(self) -> None:
        """Close the file as it is."""
        self._sink.close()

    def _write(self, name: str, count: int) -> None:
        data, array = np.concatenate(self._waiting[name]), self._arrays[name]
        start = array.shape[0]
        array.resize((start + count, *data.shape[1:]))
        array[start : start + count] = data[:count]
        self._waiting[name] = [data[count:].copy()]
        first = start // self._specs[name].chunk
        trail = "/0" * len(self._specs[name].tail)
        for number in range(first, first + -(-count // self._specs[name].chunk)):
            chunk = self._memory.pop(f"{name}/c/{number}{trail}", None)  # a chunk of zeros is not stored
            if chunk is not None:
                self._sink.add(f"{name}/c/{number}{trail}", chunk.to_bytes())


class ArrayReader:
    """Reads ranges of the arrays of a store's parts in the process that made it; make a new one behind a fork.

    ``tensorstore`` is that module, or None to read with zarr-python. The directories of the parts used last are kept.
    """

    def __init__(self, place: Place, tensorstore: Any = None) -> None:
        self.process = os.getpid()
        self._place = place
        self._tensorstore = tensorstore
        pools = {"cache_pool": {"total_bytes_limit": _CACHE_BYTES}, "cache_pool#chunks": {"total_bytes_limit": 0}}
        self._context = tensorstore and tensorstore.Context({**pools, **place.context()})
        self._parts: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, part: str, ranges: Mapping[str, Sequence[Range]], specs: Mapping[str, ArraySpec]) -> dict[str, np.ndarray]:
        """Elements ``start``..``stop`` of the named arrays of one part, all requested at once, an array's ranges one behind another.

        Raises ValueError or OSError for damaged files.
        """
        with self._lock:
            handles = self._part(part)
            views = {name: [self._handle(handles, part, name)[a:b] for a, b in some if b > a] for name, some in ranges.items()}
        if self._tensorstore is not None:
            futures = {name: [view.read() for view in some] for name, some in views.items()}
            views = {name: [future.result() for future in some] for name, some in futures.items()}
        found = {}
        for name, pieces in views.items():
            expected = (sum(max(b - a, 0) for a, b in ranges[name]), *specs[name].tail)
            found[name] = pieces[0] if len(pieces) == 1 else np.concatenate([*pieces, np.zeros((0, *specs[name].tail), specs[name].dtype)])
            if found[name].shape != expected:
                raise ValueError(f"array '{name}' of {part} has {found[name].shape[0]} of the {expected[0]} elements asked for")
        return found

    def _part(self, part: str) -> dict[str, Any]:
        handles = self._parts.setdefault(part, {})
        self._parts.move_to_end(part)
        if len(self._parts) > _OPEN_PARTS:
            _close(self._parts.popitem(last=False)[1])
        return handles

    def _handle(self, handles: dict[str, Any], part: str, name: str) -> Any:
        if name not in handles:
            if self._tensorstore is not None:
                kvstore = {"driver": "zip", "base": self._place.kvstore(part), "path": f"{name}/"}
                spec = {"driver": "zarr3", "kvstore": kvstore, "cache_pool": "cache_pool#chunks"}
                handles[name] = self._tensorstore.open(spec, read=True, context=self._context).result()
            else:
                import zarr

                if "" not in handles:
                    handles[""] = _ZipReader(self._place, part)
                handles[name] = zarr.open_array(handles[""].store, path=name, mode="r")
        return handles[name]


def read_columns(place: Place, name: str, specs: Mapping[str, ArraySpec]) -> dict[str, np.ndarray]:
    """The named arrays of the file ``name`` in whole, read without tensorstore, so that a parent may open a store and fork its workers
    afterwards."""
    import zarr

    archive = _ZipReader(place, name)
    try:
        return {array: np.asarray(zarr.open_array(archive.store, path=array, mode="r")[...]) for array in specs}
    finally:
        archive.close()


class _ZipReader:
    """zarr-python's ``ZipStore`` over the zip file ``name``, which may itself lie in a zip file: the store is handed an open file."""

    def __init__(self, place: Place, name: str) -> None:
        import zarr

        self._file = place.open(name)
        try:
            self.store: Any = zarr.storage.ZipStore(name, mode="r")
            self.store._lock, self.store._zf, self.store._is_open = threading.RLock(), zipfile.ZipFile(self._file), True
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Give back the file."""
        self.store.close()
        self._file.close()


def _close(handles: dict[str, Any]) -> None:
    """Give back the file of a part that zarr-python reads."""
    if (archive := handles.get("")) is not None:
        archive.close()
