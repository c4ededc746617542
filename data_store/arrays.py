"""Zarr arrays in a part file: zarr-python writes whole chunks straight into the zip, tensorstore or zarr-python reads ranges of them."""

from __future__ import annotations

import os
import re
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .places import Place
from .schema import ALL_ARRAYS, ArraySpec

_CHUNKS_AT_ONCE = 8  # what an array collects before it is written
OPEN_PARTS = 16  # parts whose directories are kept in memory
_CACHE_BYTES = 64 << 20  # of zip directories in tensorstore; chunks are not kept, the next sample is another chain
_ANSWER_SECONDS = 120.0  # that tensorstore may take for one array of a read: S3, or a file system that hangs, may never answer
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)
_MODE = 0o644 << 16
_GROUP = "zarr.json"
_ENTRY = re.compile(r"(\w+)/(?:c/(\d+)(?:/0)*|zarr\.json)")

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
        self._held: dict[str, dict[str, np.ndarray]] = {}  # of every part read so far: some kilobytes
        self._lock = threading.Lock()

    def read(self, part: str, ranges: Mapping[str, Sequence[Range]], specs: Mapping[str, ArraySpec]) -> dict[str, np.ndarray]:
        """Elements ``start``..``stop`` of the named arrays of one part, all requested at once, an array's ranges one behind another.

        Raises ValueError or OSError for damaged files and for one that is not there, TimeoutError where nothing answers.
        """
        with self._lock:
            handles = self._part(part)
            views = {name: [v for a, b in some for v in self._views(handles, part, name, a, b)] for name, some in ranges.items()}
        if self._tensorstore is not None:
            futures = {name: [v if isinstance(v, np.ndarray) else v.read() for v in some] for name, some in views.items()}
            views = {name: [_answer(future) for future in some] for name, some in futures.items()}
        found = {}
        for name, pieces in views.items():
            expected = (sum(max(b - a, 0) for a, b in ranges[name]), *specs[name].tail)
            found[name] = pieces[0] if len(pieces) == 1 else np.concatenate([*pieces, np.zeros((0, *specs[name].tail), specs[name].dtype)])
            if found[name].shape != expected:
                raise ValueError(f"array '{name}' of {part} has {found[name].shape[0]} of the {expected[0]} elements asked for")
        return found

    def _views(self, handles: dict[str, Any], part: str, name: str, start: int, stop: int) -> Iterator[Any]:
        """What to read for a range: zeros where no chunk was stored, and where one was, that chunk or an error.

        Left to itself either library takes a file that went away, or an entry whose name is damaged, for chunks of zeros.
        """
        if stop <= start:
            return
        if part not in self._held:
            self._held[part] = held_chunks(part, self._place.entries(part))
        array, held, foreign = self._handle(handles, part, name), self._held[part][name], self._tensorstore is not None
        chunk = array.chunk_layout.read_chunk.shape[0] if foreign else array.chunks[0]
        if (len(held) - 1) * chunk >= array.shape[0]:
            raise ValueError(f"{part} lists chunk {len(held) - 1} of '{name}', which is beyond its end")
        dtype = array.dtype.numpy_dtype if foreign else array.dtype
        for a, b, stored in _runs(start, stop, chunk, held):
            yield array[a:b] if stored else np.zeros((b - a, *array.shape[1:]), dtype)

    def _part(self, part: str) -> dict[str, Any]:
        handles = self._parts.setdefault(part, {})
        self._parts.move_to_end(part)
        if len(self._parts) > OPEN_PARTS:
            _close(self._parts.popitem(last=False)[1])
        return handles

    def _handle(self, handles: dict[str, Any], part: str, name: str) -> Any:
        if name not in handles:
            if self._tensorstore is not None:
                kvstore = {"driver": "zip", "base": self._place.kvstore(part), "path": f"{name}/"}
                spec = {"driver": "zarr3", "kvstore": kvstore, "cache_pool": "cache_pool#chunks", "fill_missing_data_reads": False}
                handles[name] = self._tensorstore.open(spec, read=True, context=self._context).result()
            else:
                import zarr

                if "" not in handles:
                    handles[""] = _ZipReader(self._place, part)
                handles[name] = zarr.open_array(handles[""].store, path=name, mode="r")
        return handles[name]


def _answer(asked: Any) -> np.ndarray:
    """What tensorstore's future brings; an array is its own answer."""
    return asked if isinstance(asked, np.ndarray) else asked.result(timeout=_ANSWER_SECONDS)


def held_chunks(part: str, entries: Iterable[str]) -> dict[str, np.ndarray]:
    """Array -> bool [N_chunks], by the names of the ``entries`` of the zip file ``part``: which of its chunks are there, up to the last.

    ValueError for a name that no part has: a damaged name would make its chunk look as if it had never been stored.
    """
    numbers: dict[str, list[int]] = {name: [] for name in ALL_ARRAYS}
    for entry in entries:
        if entry == _GROUP:
            continue
        match = _ENTRY.fullmatch(entry)
        if match is None or match[1] not in numbers:
            raise ValueError(f"{part} lists an entry {entry!r}, which no part has")
        if match[2] is not None:
            numbers[match[1]].append(int(match[2]))
    held = {name: np.zeros(max(some, default=-1) + 1, bool) for name, some in numbers.items()}
    for name, some in numbers.items():
        held[name][some] = True
    return held


def _runs(start: int, stop: int, chunk: int, held: np.ndarray) -> Iterator[tuple[int, int, bool]]:
    """``start``..``stop`` cut where stored chunks border on others: first, last + 1, whether they are stored."""
    while start < stop:
        stored, end = _is_held(held, start // chunk), start
        while end < stop and _is_held(held, end // chunk) == stored:
            end = min(stop, (end // chunk + 1) * chunk)
        yield start, end, stored
        start = end


def _is_held(held: np.ndarray, number: int) -> bool:
    return number < len(held) and bool(held[number])


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
