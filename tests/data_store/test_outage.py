"""A store that goes away while it is read: never zeros in its place; waited for, then the same samples; in the end a named error."""

from __future__ import annotations

import logging
import shutil
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from foldline.data_store import store as store_module
from foldline.data_store.config import DataConfig
from foldline.data_store.copying import copy_store
from foldline.data_store.digest import record_digest
from foldline.data_store.loader import TrainLoader
from foldline.data_store.outage import StorePatience, StoreUnreachableError
from foldline.data_store.store import Store
from foldline.errors import FoldlineError
from foldline.tests.data_store.s3_server import BUCKET, s3_server

from .test_loader import FEATURES, batches, equal

AWAY = 1.5  # seconds


@pytest.fixture
def copied(demo_store: Path, tmp_path: Path) -> Path:
    return shutil.copytree(demo_store, tmp_path / "store")


@pytest.fixture(params=["tensorstore", "zarr"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "zarr":
        monkeypatch.setattr(store_module, "tensorstore_or_none", lambda: None)
    return str(request.param)


class TestNothingIsReadInItsPlace:
    def test_a_part_that_went_away_is_an_error(self, copied: Path, library: str) -> None:
        store = Store.open(copied)
        chain = store.chain_ids[0]
        store.record(chain)  # the files are open now
        copied.rename(copied.with_name("gone"))
        store = store if library == "tensorstore" else Store(store.place, store.manifest)  # zarr-python's open file outlives its name
        with pytest.raises(FoldlineError):
            store.record(chain)

    def test_a_directory_that_hides_a_chunk_is_an_error(self, copied: Path, library: str) -> None:
        """Each bit of the flags and names in the zip directory: what is read is what was written, or an error."""
        store = Store.open(copied)
        chain = store.chain_ids[0]
        digest, part = record_digest(store.record(chain)), copied / store.manifest.parts[0].file
        data = part.read_bytes()
        refused = 0
        for entry in ("aatype/c/0", "mask/c/0/0", "positions/c/0/0/0", "msa/c/0"):
            header = data.rindex(entry.encode()) - 46
            for place, bit in ((header + 9, 32), (header + 46, 1), (header + 46 + len(entry) - 1, 2)):
                part.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
                with suppress(FoldlineError):
                    assert record_digest(Store.open(copied).record(chain)) == digest, (entry, place - header)
                    refused -= 1
                refused += 1
        assert refused >= 8

    def test_chunks_of_zeros_are_not_stored_and_read_as_zeros(self, copied: Path, library: str, tmp_path: Path) -> None:
        store = Store.open(copied)
        record = store.record(store.chain_ids[0])
        plain = replace(record, msas=tuple(replace(msa, deletions=msa.deletions * 0) for msa in record.msas))
        with store_module.StoreWriter(tmp_path / "zeros") as writer:
            writer.add(plain)
        zeros = Store.open(tmp_path / "zeros")
        assert "deletions/c/0" not in zipfile.ZipFile(tmp_path / "zeros" / zeros.manifest.parts[0].file).namelist()
        assert record_digest(zeros.record(zeros.chain_ids[0])) == record_digest(plain)
        assert zeros.verify() == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_waits_and_goes_on_with_the_same_samples(
    demo_store: Path, copied: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The outage takes longer than a sample may before its worker counts as stuck: a worker that waits does not."""
    whole = batches(demo_store, 14)
    data = DataConfig(seed=11, workers=workers, prefetch=1, store_patience=30.0, slow_sample_seconds=0.4)
    with TrainLoader(copied, data, FEATURES) as loader, caplog.at_level(logging.WARNING):
        first = list(islice(loader, 2))
        if loader._pool:
            loader._pool._patience = loader._pool._patience._replace(stuck=0.8)  # not from the start: a worker takes longer to start
        gone = copied.rename(copied.with_name("gone"))
        threading.Timer(AWAY, lambda: gone.rename(copied)).start()
        start = time.monotonic()
        rest = list(islice(loader, 12))
        assert time.monotonic() - start > AWAY - 0.1
        assert equal([*first, *rest], whole)
        assert loader.stats.replaced == 0
        end = time.monotonic() + 10  # what watches the workers may look later than the last sample comes
        while "is there again" not in caplog.text and time.monotonic() < end:
            time.sleep(0.05)
    assert f"waiting for the store: {copied} cannot be read" in caplog.text
    assert "is there again" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_patience_ends_with_the_store_and_the_way_out(copied: Path, workers: int) -> None:
    with TrainLoader(copied, DataConfig(workers=workers, prefetch=1, store_patience=1.0), FEATURES) as loader:
        next(loader)
        copied.rename(copied.with_name("gone"))
        with pytest.raises(StoreUnreachableError, match=rf"{copied} could not be read for data.store_patience = 1 s.*--resume"):
            list(loader)


def test_damage_is_not_waited_for(copied: Path) -> None:
    store = Store.open(copied, StorePatience(600.0))
    for part in (copied / "parts").iterdir():
        part.write_bytes(b"damaged" * 100)
    with pytest.raises(FoldlineError, match=r"chain .* in parts/part-.* cannot be read .* nothing of it was used; run: .* and restore"):
        store.record(store.chain_ids[0])


class Door:
    """A TCP relay to a server, which can be shut: connections are refused, those there are cut."""

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._open: list[socket.socket] = []
        self.port = 0
        self.open()

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                inside, _ = listener.accept()
                outside = socket.create_connection(self._server)
                self._open += [inside, outside]
                for pair in ((inside, outside), (outside, inside)):
                    threading.Thread(target=_relay, args=pair, daemon=True).start()


def _relay(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def door(demo_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with s3_server(tmp_path / "log") as url:
        copy_store(demo_store, f"s3://{BUCKET}/store")
        door = Door(int(url.rsplit(":", 1)[1]))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{door.port}")
        yield door
        door.shut()


def test_s3_that_is_down_is_waited_for(demo_store: Path, door: Door) -> None:
    whole, url = batches(demo_store, 6), f"s3://{BUCKET}/store"
    with TrainLoader(url, DataConfig(seed=11, store_patience=60.0), FEATURES) as loader:
        first = list(islice(loader, 2))
        door.shut()
        threading.Timer(AWAY, door.open).start()
        assert equal([*first, *islice(loader, 4)], whole)
    with TrainLoader(url, DataConfig(seed=11, store_patience=1.0), FEATURES) as loader:
        next(loader)
        door.shut()
        with pytest.raises(StoreUnreachableError, match=rf"{url} could not be read for data.store_patience = 1 s \(.*127.0.0.1"):
            next(loader)
