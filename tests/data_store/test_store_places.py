"""One class of laws for every way to read a store: either reader, a folder, one zip file, S3."""

from __future__ import annotations

import multiprocessing
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from foldline.cli import main
from foldline.data_store import store as store_module
from foldline.data_store.copying import copy_store
from foldline.data_store.schema import DATA_ARRAYS
from foldline.data_store.store import Store, StoreWriter
from foldline.data_store.types import ChainRecord
from foldline.data_store.writer import append_parts
from foldline.errors import FoldlineError
from foldline.tests.data_store.s3_server import BUCKET, s3_server
from foldline.tests.data_store.store_cases import assert_same, random_record


@pytest.fixture(scope="module")
def records() -> list[ChainRecord]:
    rng = np.random.default_rng(8)
    shapes = [(7, (3,), 2, False), (30, (1, 4), None, True), (1, (1,), 0, False), (350, (900, 700), 1, False), (12, (5,), None, False)]
    return [random_record(rng, f"c{i}", n, d, t, p) for i, (n, d, t, p) in enumerate(shapes)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, records: list[ChainRecord]) -> Path:
    """A store of two parts."""
    root = tmp_path_factory.mktemp("places")
    for name, some in (("store", records[:3]), ("more", records[3:])):
        with StoreWriter(root / name) as writer:
            for record in some:
                writer.add(record)
    append_parts(root / "store", list((root / "more" / "parts").iterdir()))
    return root / "store"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The log of a running S3 server."""
    log = tmp_path_factory.mktemp("s3") / "log"
    with s3_server(log):
        yield log


@pytest.fixture(scope="module")
def zipped(folder: Path) -> Path:
    copy_store(folder, folder.parent / "store.zip")
    return folder.parent / "store.zip"


@pytest.fixture(scope="module")
def bucket(folder: Path, server: Path) -> str:
    copy_store(folder, f"s3://{BUCKET}/some/store")
    return f"s3://{BUCKET}/some/store"


@pytest.fixture(params=["tensorstore-folder", "zarr-folder", "tensorstore-zip", "zarr-zip", "tensorstore-s3"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    reader, _, place = request.param.partition("-")
    if reader == "zarr":
        monkeypatch.setattr(store_module, "tensorstore_or_none", lambda: None)
    return Store.open(request.getfixturevalue({"folder": "folder", "zip": "zipped", "s3": "bucket"}[place]))


class TestReading:
    def test_every_chain_to_the_bit(self, store: Store, records: list[ChainRecord]) -> None:
        assert store.chain_ids == tuple(r.metadata.chain_id for r in records)
        assert store.lengths.tolist() == [len(r.sequence) for r in records]
        for record in reversed(records):
            assert_same(store.record(record.metadata.chain_id), record)
            assert store.metadata(record.metadata.chain_id) == record.metadata

    def test_some_rows_of_the_alignments(self, store: Store, records: list[ChainRecord]) -> None:
        assert store.msa_depth("c3") == 1600
        rows, deletions = (np.concatenate([getattr(m, name) for m in records[3].msas]) for name in ("rows", "deletions"))
        for wanted in ([0], [1599, 0, 3, 3, 950], np.arange(1600)[::-1], np.random.default_rng(0).choice(1600, 200), []):
            (msa,) = (read := store.record("c3", wanted)).msas
            assert msa.name == "msa0+msa1"
            chosen = np.asarray(wanted, np.int64)
            assert (msa.rows == rows[chosen]).all()
            assert (msa.deletions == deletions[chosen]).all()
            assert msa.rows.shape == (len(wanted), 350)
            assert (read.positions == records[3].positions).all()

    @pytest.mark.parametrize("outside", [1600, -1])
    def test_rows_that_are_not_there(self, store: Store, outside: int) -> None:
        with pytest.raises(FoldlineError, match=rf"row {outside} of the MSAs of chain 'c3' is not there; they have rows 0 to 1599"):
            store.record("c3", [5, outside])

    def test_unknown_chain_and_verify(self, store: Store) -> None:
        with pytest.raises(FoldlineError, match="no chain 'c9'"):
            store.record("c9")
        assert store.verify() == []

    def test_workers_of_any_start_method(self, store: Store, records: list[ChainRecord]) -> None:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert_same(pool.apply_async(store.record, ("c1",)).get(timeout=100), records[1])


class TestOneRead:
    def test_only_the_chunks_of_the_wanted_rows(self, folder: Path, records: list[ChainRecord], monkeypatch: pytest.MonkeyPatch) -> None:
        """Counted where zarr-python takes entries out of the part."""
        taken: list[str] = []
        original = zipfile.ZipFile.open

        def noted(self, name, *args, **kwargs):
            taken.append(str(name))
            return original(self, name, *args, **kwargs)

        monkeypatch.setattr(store_module, "tensorstore_or_none", lambda: None)
        store = Store.open(folder)
        assert store.index.range_in_part("cells", 3)[0] == 0
        monkeypatch.setattr(zipfile.ZipFile, "open", noted)
        store.record("c3", [0, 1, 1599])
        assert DATA_ARRAYS["msa"].chunk == 262_144
        assert DATA_ARRAYS["deletions"].chunk == 524_288
        read = [name for name in taken if name.startswith(("msa/c/", "deletions/c/"))]
        assert read == ["msa/c/0", "msa/c/2", "deletions/c/0", "deletions/c/1"]  # not msa/c/1

    def test_ranges_of_an_object_not_the_object(self, bucket: str, server: Path) -> None:
        store = Store.open(bucket)
        store.index  # noqa: B018
        before = len(server.read_bytes())
        store.record("c3", [0])
        assert store.manifest.parts[1].bytes > 1 << 19
        requests = [line for line in server.read_bytes()[before:].decode().splitlines() if "/parts/" in line]
        assert requests
        assert all(" 206 " in line or " 304 " in line for line in requests), requests

    def test_parts_in_memory_are_bounded(self, folder: Path, monkeypatch: pytest.MonkeyPatch, records: list[ChainRecord]) -> None:
        monkeypatch.setattr("foldline.data_store.arrays.OPEN_PARTS", 1)
        for replaced in (False, True):
            if replaced:
                monkeypatch.setattr(store_module, "tensorstore_or_none", lambda: None)
            store = Store.open(folder)
            for number in (0, 3, 1, 4, 0):
                assert_same(store.record(f"c{number}"), records[number])
            assert store._reader is not None
            assert len(store._reader._parts) == 1


class TestMistakes:
    def test_an_endpoint_without_a_server(self, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        start = time.monotonic()
        with pytest.raises(FoldlineError, match=r"cannot be reached at http://127\.0\.0\.1:9 .*check the bucket, AWS_ENDPOINT_URL"):
            Store.open(bucket)
        assert time.monotonic() - start < 15

    def test_no_store_there(self, server: Path, tmp_path: Path) -> None:
        with pytest.raises(FoldlineError, match="not a Foldline store: it holds no manifest"):
            Store.open(f"s3://{BUCKET}/nothing")
        with pytest.raises(FoldlineError, match="names no bucket"):
            Store.open("s3://")
        with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
            archive.writestr("hello", "x")
        with pytest.raises(FoldlineError, match="not a Foldline store: it holds no manifest"):
            Store.open(tmp_path / "other.zip")

    def test_a_forked_child_says_that_it_cannot_read_s3(self, bucket: str, tmp_path: Path) -> None:
        Store.open(bucket)
        if (child := os.fork()) == 0:
            try:
                Store.open(bucket)
            except FoldlineError as error:
                (tmp_path / "said").write_text(str(error))
            os._exit(0)
        os.waitpid(child, 0)
        assert "start workers with the spawn method" in (tmp_path / "said").read_text()

    @pytest.mark.parametrize("kind", ["zipped", "bucket"])
    def test_only_a_folder_is_appended_to(self, kind: str, request: pytest.FixtureRequest, folder: Path) -> None:
        with pytest.raises(FoldlineError, match=r"only a folder can be appended to; copy it to one \(foldline store copy"):
            append_parts(request.getfixturevalue(kind), list((folder / "parts").iterdir()))

    def test_a_store_zipped_with_compression(self, folder: Path, tmp_path: Path) -> None:
        path = tmp_path / "s.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(p for p in folder.rglob("*") if p.is_file()):
                archive.write(file, file.relative_to(folder))
        with pytest.raises(FoldlineError, match=r"compressed; make it with: foldline store copy"):
            Store.open(path).record("c0")


class TestCopy:
    def test_round_through_all_places(self, folder: Path, zipped: Path, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        assert main(["store", "copy", bucket, str(tmp_path / "a.zip")]) == 0
        assert main(["store", "copy", str(tmp_path / "a.zip"), str(tmp_path / "b")]) == 0
        assert (tmp_path / "a.zip").read_bytes() == zipped.read_bytes()
        for file in (p for p in folder.rglob("*") if p.is_file()):
            assert (tmp_path / "b" / file.relative_to(folder)).read_bytes() == file.read_bytes()
        for path in (bucket, str(zipped)):
            assert main(["store", "ls", path]) == 0
            assert main(["store", "verify", path]) == 0
            assert main(["store", "show", path, "c1"]) == 0
        assert "all as written" in capsys.readouterr().out

    def test_what_exists_is_not_overwritten(self, folder: Path, zipped: Path, bucket: str) -> None:
        for path in (folder, zipped):
            with pytest.raises(FoldlineError, match="already exists"):
                copy_store(bucket, path)
        with pytest.raises(FoldlineError, match="already holds a store"):
            copy_store(folder, bucket)

    @pytest.mark.parametrize("name", ["copy", "copy.zip", "s3"])
    def test_a_damaged_source_leaves_nothing(self, folder: Path, tmp_path: Path, name: str, server: Path) -> None:
        source = tmp_path / "source"
        copy_store(folder, source)
        part = source / Store.open(source).manifest.parts[1].file
        part.write_bytes(part.read_bytes()[:-1])
        destination = f"s3://{BUCKET}/broken" if name == "s3" else tmp_path / name
        with pytest.raises(FoldlineError, match="is not what was committed"):
            copy_store(source, destination)
        assert [p.name for p in tmp_path.iterdir()] == ["source"]
        with pytest.raises(FoldlineError, match="not a Foldline store"):
            Store.open(destination)
