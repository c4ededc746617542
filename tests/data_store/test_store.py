"""The store: what is written is read, a commit is all or nothing, no damage stays unseen."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foldline.data_store import engine, schema
from foldline.data_store import store as store_module
from foldline.data_store.copying import copy_store
from foldline.data_store.digest import record_digest
from foldline.data_store.manifest import MANIFEST, read_manifest
from foldline.data_store.store import Store, StoreWriter
from foldline.data_store.types import ChainRecord
from foldline.data_store.writer import check_record
from foldline.errors import FoldlineError
from foldline.tests.data_store.store_cases import assert_same, random_record

CHAINS = st.lists(
    st.tuples(
        st.integers(1, 40),  # residues
        st.lists(st.integers(1, 5), min_size=1, max_size=3),  # depths of its MSAs
        st.sampled_from([None, 0, 1, 3]),  # templates
        st.booleans(),  # plddt
    ),
    min_size=1,
    max_size=8,
)


def write(path: Path, records: Iterable[ChainRecord]) -> Store:
    with StoreWriter(path) as writer:
        for record in records:
            writer.add(record)
    return Store.open(path)


def part_of(store: Store, number: int = 0) -> Path:
    return store.path / store.manifest.parts[number].file


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 4 elements, so that a few residues cross many borders."""
    for name, spec in schema.ALL_ARRAYS.items():
        table = (
            schema.DATA_ARRAYS if name in schema.DATA_ARRAYS else schema.INDEX_ARRAYS if name in schema.INDEX_ARRAYS else schema.TEXT_ARRAYS
        )
        monkeypatch.setitem(table, name, spec._replace(chunk=4))
        monkeypatch.setitem(schema.ALL_ARRAYS, name, spec._replace(chunk=4))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ChainRecord]]:
    rng = np.random.default_rng(5)
    records = [
        random_record(rng, "1abc_A", 7, (3,), 2),
        random_record(rng, "2abc_B", 30, (1, 4), None, plddt=True),
        random_record(rng, "3abc_C", 1, (1,), 0),
    ]
    path = tmp_path_factory.mktemp("built") / "store"
    write(path, records)
    return path, records


@pytest.fixture
def three(built: tuple[Path, list[ChainRecord]], tmp_path: Path) -> tuple[Store, list[ChainRecord]]:
    """A copy of one store of three chains, to be damaged at will."""
    shutil.copytree(built[0], tmp_path / "store")
    return Store.open(tmp_path / "store"), built[1]


class TestRoundTrip:
    @settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
    @given(chains=CHAINS, seed=st.integers(0, 2**32 - 1))
    def test_written_equals_read(self, tmp_path_factory: pytest.TempPathFactory, chains: list, seed: int) -> None:
        rng = np.random.default_rng(seed)
        records = [random_record(rng, f"c{i}", n, tuple(d), t, p) for i, (n, d, t, p) in enumerate(chains)]
        store = write(tmp_path_factory.mktemp("store") / "s", records)
        assert store.chain_ids == tuple(f"c{i}" for i in range(len(records)))
        assert store.lengths.tolist() == [len(r.sequence) for r in records]
        for record in reversed(records):
            assert_same(store.record(record.metadata.chain_id), record)
            assert store.metadata(record.metadata.chain_id) == record.metadata
        assert store.verify() == []

    def test_chains_cross_chunks(self, tmp_path: Path, small_chunks: None) -> None:
        rng = np.random.default_rng(1)
        records = [random_record(rng, f"c{i}", n, (2, 3), 1, i % 2 == 0) for i, n in enumerate((1, 15, 16, 17, 50, 3))]
        store = write(tmp_path / "s", records)
        names = zipfile.ZipFile(part_of(store)).namelist()
        assert sum(name.startswith("residue_index/c/") for name in names) == -(-sum(len(r.sequence) for r in records) // 4)
        for record in records:
            assert_same(store.record(record.metadata.chain_id), record)

    def test_zarr_python_reads_the_same(self, three: tuple[Store, list[ChainRecord]], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store_module, "tensorstore_or_none", lambda: None)
        for record in three[1]:
            assert_same(three[0].record(record.metadata.chain_id), record)

    def test_tensorstore_is_what_reads(self, three: tuple[Store, list[ChainRecord]]) -> None:
        three[0].record("1abc_A")
        assert engine.tensorstore_process() == os.getpid()

    def test_content_hash_is_of_content_alone(self, three: tuple[Store, list[ChainRecord]], tmp_path: Path, small_chunks: None) -> None:
        store, records = three
        assert write(tmp_path / "other", records[::-1]).content_hash == store.content_hash
        changed = replace(records[0], positions=records[0].positions + np.float32(0.001))
        assert write(tmp_path / "changed", [changed, *records[1:]]).content_hash != store.content_hash


class TestProcesses:
    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_workers_read_a_store_their_parent_has_read(self, three: tuple[Store, list[ChainRecord]], method: str) -> None:
        store, records = three
        store.record("1abc_A")
        with multiprocessing.get_context(method).Pool(2) as pool:
            for record, read in zip(records, pool.map_async(store.record, store.chain_ids).get(timeout=60), strict=True):
                assert_same(read, record)

    def test_a_forked_child_reads_with_handles_of_its_own(self, three: tuple[Store, list[ChainRecord]]) -> None:
        store, records = three
        store.record("1abc_A")
        if (child := os.fork()) == 0:
            signal.alarm(30)  # a reader inherited from the parent would wait for ever
            assert_same(store.record("2abc_B"), records[1])
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

    def test_a_pickled_store_holds_no_open_file(self, three: tuple[Store, list[ChainRecord]]) -> None:
        three[0].record("1abc_A")
        assert_same(pickle.loads(pickle.dumps(three[0])).record("2abc_B"), three[1][1])


class TestCommit:
    def test_an_error_leaves_nothing(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        with pytest.raises(ZeroDivisionError):
            write(tmp_path / "s", (random_record(rng, f"c{n}", 5 // n) for n in (1, 0)))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("moment", ["adding", "before the manifest"])
    def test_a_killed_run_leaves_a_folder_that_the_next_run_clears(self, tmp_path: Path, moment: str) -> None:
        if (child := os.fork()) == 0:
            _killed(tmp_path / "s", moment)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert [p.name for p in tmp_path.iterdir()] == [".s.partial"]
        with pytest.raises(FoldlineError, match="not a Foldline store"):
            Store.open(tmp_path / ".s.partial")
        record = random_record(np.random.default_rng(0), "b", 5)
        assert_same(write(tmp_path / "s", [record]).record("b"), record)
        assert [p.name for p in tmp_path.iterdir()] == ["s"]

    def test_two_writers_of_one_store(self, tmp_path: Path) -> None:
        with StoreWriter(tmp_path / "s") as writer:
            with pytest.raises(FoldlineError, match="another process is writing"):
                StoreWriter(tmp_path / "s")
            writer.add(random_record(np.random.default_rng(0), "a", 5))
        assert Store.open(tmp_path / "s").chain_ids == ("a",)

    @pytest.mark.parametrize("kind", ["store", "file", "empty folder", "dangling link"])
    def test_what_exists_is_never_overwritten(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "s"
        if kind == "store":
            write(path, [random_record(np.random.default_rng(0), "a", 5)])
        elif kind == "file":
            path.write_text("precious")
        elif kind == "empty folder":
            path.mkdir()
        else:
            path.symlink_to(tmp_path / "nowhere")
        with pytest.raises(FoldlineError, match="already exists"):
            StoreWriter(path)
        assert [p.name for p in tmp_path.iterdir()] == ["s"]

    def test_folders_above_it_are_made_and_a_file_above_it_is_named(self, tmp_path: Path) -> None:
        write(tmp_path / "a" / "b" / "s", [random_record(np.random.default_rng(0), "a", 5)])
        assert Store.open(tmp_path / "a" / "b" / "s").chain_ids == ("a",)
        (tmp_path / "file").write_text("precious")
        with pytest.raises(FoldlineError, match=r"file cannot be made a folder"):
            StoreWriter(tmp_path / "file" / "s")


def _killed(path: Path, moment: str) -> None:
    """What a child does before it is killed without warning."""
    writer = StoreWriter(path)
    writer.add(random_record(np.random.default_rng(0), "a", 5))
    if moment == "before the manifest":
        import foldline.data_store.writer as module

        module.write_manifest = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        writer.__exit__(None, None, None)
    os.kill(os.getpid(), signal.SIGKILL)


class TestOpen:
    def test_no_store(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "missing", tmp_path / "file"):
            (tmp_path / "file").write_text("x")
            with pytest.raises(FoldlineError, match=r"is not a Foldline store.*foldline ingest"):
                Store.open(path)

    def test_another_schema_names_both_versions_and_the_way_out(self, three: tuple[Store, list[ChainRecord]]) -> None:
        path = three[0].path / MANIFEST
        path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
        with pytest.raises(FoldlineError, match=rf"schema 99, .* reads schema {schema.SCHEMA_VERSION}; ingest the sources again"):
            Store.open(three[0].path)

    def test_unknown_chain(self, three: tuple[Store, list[ChainRecord]]) -> None:
        with pytest.raises(FoldlineError, match="no chain '1abd_A'; did you mean '1abc_A'"):
            three[0].record("1abd_A")

    def test_manifest_counts(self, three: tuple[Store, list[ChainRecord]]) -> None:
        assert read_manifest(three[0].place).counts == {"chains": 3, "residues": 38, "msas": 4, "msa_cells": 21 + 150 + 1, "templates": 2}


class TestVerify:
    @settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
    @given(data=st.data())
    @pytest.mark.parametrize("kind", ["folder", "zip"])
    def test_every_flipped_byte_is_found(self, three: tuple[Store, list[ChainRecord]], kind: str, data: st.DataObject) -> None:
        """Any bits of any byte of any file. What is named is what has changed: no chain that reads differently goes unnamed."""
        store, records = three
        files = sorted(p for p in store.path.rglob("*") if p.is_file())
        if kind == "zip":
            files = [store.path.with_suffix(".zip")]
            if not files[0].exists():
                copy_store(store.path, files[0])
        file = data.draw(st.sampled_from(files))
        whole = file.read_bytes()
        damaged = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 3))):
            ends = st.integers(0, 199) | st.integers(len(whole) - 600, len(whole) - 1)  # where a zip file has its headers
            damaged[data.draw(st.integers(0, len(whole) - 1) | ends)] ^= data.draw(st.integers(1, 255))
        if damaged == whole:
            return
        file.write_bytes(damaged)
        try:
            assert _finds_damage(files[0] if kind == "zip" else store.path, records), "the damage went unseen"
        finally:
            file.write_bytes(whole)
        assert Store.open(files[0] if kind == "zip" else store.path).verify() == []

    def test_the_chains_of_a_damaged_chunk_are_named(self, tmp_path: Path, small_chunks: None) -> None:
        rng = np.random.default_rng(2)
        store = write(tmp_path / "s", [random_record(rng, name, 16) for name in ("first", "second", "third")])
        for entry in ("positions/c/4/0/0", "mask/c/5/0", "residue_index/c/6", "msa/c/7"):
            data = damage(part_of(store), entry)
            (problem,) = Store.open(store.path).verify()
            assert problem.startswith(f"{store.manifest.parts[0].file}: "), problem
            assert problem.endswith("chains affected: second"), problem
            part_of(store).write_bytes(data)

    def test_missing_cut_and_foreign_files(self, three: tuple[Store, list[ChainRecord]]) -> None:
        root, part = three[0].path, three[0].manifest.parts[0]
        (root / part.file).write_bytes((root / part.file).read_bytes()[:-3])
        (root / "notes.txt").write_text("hello")
        problems = "\n".join(Store.open(root).verify())
        assert (
            f"{part.file}: has {part.bytes - 3} bytes, the manifest says {part.bytes}; chains affected: 1abc_A, 2abc_B, 3abc_C" in problems
        )
        assert "notes.txt: is not listed in the manifest; no chain's content is affected" in problems
        (root / part.file).unlink()
        assert f"{part.file}: is missing; chains affected: 1abc_A" in "\n".join(Store.open(root).verify())

    def test_reading_damage_is_a_message(self, three: tuple[Store, list[ChainRecord]]) -> None:
        damage(part_of(three[0]), "positions/c/0/0/0")
        with pytest.raises(FoldlineError, match=r"chain '1abc_A' in parts/part-.*zip of .* cannot be read .*foldline store verify"):
            Store.open(three[0].path).record("1abc_A")


def _finds_damage(path: Path, records: list[ChainRecord]) -> bool:
    try:
        store = Store.open(path)
    except FoldlineError:  # the manifest or the whole zip file is refused
        return True
    problems = "\n".join(store.verify())
    for record in records:
        name = record.metadata.chain_id
        try:
            same = record_digest(store.record(name)) == record_digest(record)
        except FoldlineError:
            same = False
        assert same or name in problems or "every chain is affected" in problems, (name, problems)
    return bool(problems)


def damage(path: Path, entry: str) -> bytes:
    """Change one byte of an entry of a zip file; the file's bytes before."""
    data = path.read_bytes()
    info = zipfile.ZipFile(path).getinfo(entry)
    place = info.header_offset + 30 + len(entry) + info.file_size // 2
    path.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
    return data


class TestWriterRefuses:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda r: {"sequence": ""}, "sequence is empty"),
            (lambda r: {"sequence": "B" * len(r.sequence)}, "sequence and aatype differ"),
            (lambda r: {"aatype": r.aatype.astype(np.int64)}, "aatype is int64"),
            (lambda r: {"positions": r.positions[:-1]}, "positions is float32"),
            (lambda r: {"positions": r.positions * np.float32(np.nan)}, "not all finite"),
            (lambda r: {"mask": r.mask + np.uint8(3)}, "mask holds values"),
            (lambda r: {"msas": ()}, "no MSA"),
            (lambda r: {"msas": (replace(r.msas[0], rows=r.msas[0].rows[1:], deletions=r.msas[0].deletions[1:]),)}, "row 0 of MSA"),
            (lambda r: {"msas": (replace(r.msas[0], rows=r.msas[0].rows + np.uint8(9)),)}, r"not within 0\.\.21"),
            (lambda r: {"msas": (r.msas[0], r.msas[0])}, "comes twice"),
            (lambda r: {"plddt": np.zeros(3, np.float32)}, "plddt is float32"),
            (lambda r: {"templates": replace(r.templates, names=())}, "2 templates have 0 names"),
            (lambda r: {"metadata": replace(r.metadata, title="two\nlines")}, "line feed"),
            (lambda r: {"metadata": replace(r.metadata, chain_id="")}, "chain id is empty"),
        ],
    )
    def test_a_record_that_breaks_a_rule(self, change, message: str) -> None:
        record = random_record(np.random.default_rng(3), "1abc_A", 12, (4,), 2)
        check_record(record)
        with pytest.raises(FoldlineError, match=message):
            check_record(replace(record, **change(record)))

    def test_a_writer_that_refuses_leaves_nothing(self, tmp_path: Path) -> None:
        record = random_record(np.random.default_rng(3), "1abc_A", 12)
        with pytest.raises(FoldlineError, match="no MSA"):
            write(tmp_path / "s", [record, replace(record, msas=())])
        assert list(tmp_path.iterdir()) == []

    def test_the_same_id_twice(self, tmp_path: Path) -> None:
        record = random_record(np.random.default_rng(3), "1abc_A", 12)
        with pytest.raises(FoldlineError, match="given twice"):
            write(tmp_path / "s", [record, record])
