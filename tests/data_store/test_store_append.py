"""Appending: readers see the store as it was or as it is, a writer that is killed costs nothing; and what rearranges stores."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from foldline.cli import main
from foldline.data_store import parts as parts_module
from foldline.data_store import rearrange
from foldline.data_store import writer as writer_module
from foldline.data_store.parts import PartWriter, read_part_entry
from foldline.data_store.store import Store, StoreWriter
from foldline.data_store.writer import append_parts, commit_store
from foldline.errors import FoldlineError
from foldline.tests.data_store.append_cases import keep_reading, record
from foldline.tests.data_store.store_cases import assert_same


def make_part(path: Path, numbers: Iterable[int]) -> Path:
    with PartWriter(path) as part:
        for number in numbers:
            part.add(record(number))
    return path


def make_store(path: Path, numbers: Iterable[int]) -> Store:
    with StoreWriter(path) as writer:
        for number in numbers:
            writer.add(record(number))
    return Store.open(path)


def everything(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


class TestParts:
    def test_equal_content_gives_equal_bytes(self, tmp_path: Path) -> None:
        one = make_part(tmp_path / "a.zip", range(4))
        time.sleep(2.1)  # zip dates have steps of two seconds
        other = make_part(tmp_path / "b.zip", range(4))
        assert one.read_bytes() == other.read_bytes()

    def test_its_entry_is_what_a_reader_finds(self, tmp_path: Path) -> None:
        with PartWriter(tmp_path / "a.zip") as part:
            part.add(record(1))
        assert part.entry == read_part_entry(tmp_path / "a.zip")
        assert part.entry is not None
        assert part.entry.size == (tmp_path / "a.zip").stat().st_size
        assert part.entry.counts["residues"] == 6

    def test_an_error_or_a_kill_leaves_no_part(self, tmp_path: Path) -> None:
        with pytest.raises(FoldlineError, match="given twice"):
            make_part(tmp_path / "a.zip", (1, 1))
        assert list(tmp_path.iterdir()) == []
        if (child := os.fork()) == 0:
            PartWriter(tmp_path / "a.zip").add(record(1))
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        assert [p.name for p in tmp_path.iterdir()] == [".a.zip.building"]
        make_part(tmp_path / "a.zip", range(2))
        assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]

    def test_commit_moves_parts_in_the_order_given(self, tmp_path: Path) -> None:
        parts = [make_part(tmp_path / f"{i}.zip", range(3 * i, 3 * i + 3)) for i in range(3)]
        commit_store(tmp_path / "s", parts[::-1])
        store = Store.open(tmp_path / "s")
        assert store.chain_ids == tuple(f"c{i}" for i in (6, 7, 8, 3, 4, 5, 0, 1, 2))
        assert store.content_hash == make_store(tmp_path / "other", range(9)).content_hash
        assert {p.name for p in tmp_path.iterdir()} == {"s", "other"}

    @pytest.mark.parametrize("spoil", ["twice", "overlap", "damaged", "no zip"])
    def test_commit_refuses_and_leaves_the_parts(self, tmp_path: Path, spoil: str) -> None:
        parts = [make_part(tmp_path / "0.zip", range(3)), make_part(tmp_path / "1.zip", range(3, 6))]
        if spoil == "twice":
            shutil.copy(parts[0], tmp_path / "2.zip")
        elif spoil == "overlap":
            make_part(tmp_path / "2.zip", range(5, 8))
        else:
            (tmp_path / "2.zip").write_bytes(parts[0].read_bytes()[:-9] if spoil == "damaged" else b"hello")
        message = {"twice": "give each part once", "overlap": r"1 chains are given twice \(c5\)"}.get(spoil, "cannot be read as a part")
        before = everything(tmp_path)
        with pytest.raises(FoldlineError, match=message):
            commit_store(tmp_path / "s", [*parts, tmp_path / "2.zip"])
        assert everything(tmp_path) == before


class TestAppend:
    def test_the_store_is_what_one_ingest_would_make(self, tmp_path: Path) -> None:
        make_store(tmp_path / "s", range(3))
        for i in range(1, 4):
            append_parts(tmp_path / "s", [make_part(tmp_path / "p.zip", range(3 * i, 3 * i + 3))])
        store = Store.open(tmp_path / "s")
        assert store.content_hash == make_store(tmp_path / "other", range(12)).content_hash
        assert store.verify() == []
        for number in range(12):
            assert_same(store.record(f"c{number}"), record(number))
        assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["index-3.zip", "index-4.zip", "manifest.json", "parts"]

    def test_a_reader_that_opened_before_reads_on(self, tmp_path: Path) -> None:
        make_store(tmp_path / "s", range(3))
        opened, unread = Store.open(tmp_path / "s"), Store.open(tmp_path / "s")
        assert len(opened.chain_ids) == 3
        for i in range(1, 4):
            append_parts(tmp_path / "s", [make_part(tmp_path / "p.zip", range(3 * i, 3 * i + 3))])
        assert len(opened.chain_ids) == 3
        assert_same(opened.record("c2"), record(2))
        assert len(unread.chain_ids) == len(unread) == 12  # its index is gone: it sees the new store, not half of it

    @pytest.mark.parametrize("spoil", ["overlap", "damaged", "no store", "busy", "no space"])
    def test_what_is_refused_changes_nothing(self, tmp_path: Path, spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
        make_store(tmp_path / "s", range(3))
        part = make_part(tmp_path / "p.zip", range(2, 6) if spoil == "overlap" else range(3, 6))
        message = {"overlap": r"c2.*leave them out", "no store": "not a Foldline store", "busy": "another process is appending"}
        if spoil == "damaged":
            part.write_bytes(part.read_bytes()[:-9])
        elif spoil == "no store":
            (tmp_path / "s" / "manifest.json").unlink()
        elif spoil == "busy":
            lock = writer_module._lock_store(tmp_path / "s")
        elif spoil == "no space":
            monkeypatch.setattr(writer_module, "save_columns", _no_space)
        before = everything(tmp_path)
        with pytest.raises(FoldlineError, match=message.get(spoil, "cannot be read as a part|cannot be written: No space left")):
            append_parts(tmp_path / "s", [part])
        assert everything(tmp_path) == before
        if spoil == "busy":
            os.close(lock)

    def test_readers_see_the_old_or_the_new_store(self, tmp_path: Path) -> None:
        make_store(tmp_path / "s", range(3))
        context = multiprocessing.get_context("spawn")
        stop, (ours, theirs) = context.Event(), context.Pipe()
        reader = context.Process(target=keep_reading, args=(tmp_path / "s", stop, theirs))
        reader.start()
        theirs.close()
        assert ours.recv() == "ready"
        for i in range(1, 6):
            append_parts(tmp_path / "s", [make_part(tmp_path / "p.zip", range(3 * i, 3 * i + 3))])
        stop.set()
        seen = ours.recv()
        reader.join(60)
        assert isinstance(seen, list), seen
        assert seen == sorted(seen)
        assert set(seen) <= set(range(3, 19, 3))
        assert len(set(seen)) > 2

    def test_a_killed_append_leaves_the_old_store(self, tmp_path: Path) -> None:
        """Killed at eight moments of the time that an append takes, each followed by one that succeeds."""
        make_store(tmp_path / "s", range(2))
        have, rng, done = 2, np.random.default_rng(4), []
        for turn in range(8):
            part = make_part(tmp_path / f"p{turn}.zip", range(have, have + 2))
            child = _append_in_child(tmp_path / "s", part)
            time.sleep(float(rng.random()) * 0.08)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            store = Store.open(tmp_path / "s")
            assert len(store) in (have, have + 2)
            done.append(len(store) > have)
            assert {f"c{i}" for i in range(len(store))} == set(store.chain_ids)
            assert_same(store.record(f"c{len(store) - 1}"), record(len(store) - 1))
            if len(store) == have:
                append_parts(tmp_path / "s", [part])
            have += 2
            assert Store.open(tmp_path / "s").verify() == []
        assert not all(done)

    @pytest.mark.parametrize("step", ["load_columns", "_place_parts", "save_columns", "write_manifest"])
    def test_killed_before_and_after_each_step(self, tmp_path: Path, step: str) -> None:
        make_store(tmp_path / "s", range(2))
        for after in (False, True):
            part = make_part(tmp_path / "p.zip", range(2, 4))
            child = _append_in_child(tmp_path / "s", part, lambda a=after: _die_at(step, a))
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
            assert len(Store.open(tmp_path / "s")) == (4 if step == "write_manifest" and after else 2)
            part.unlink()
        if step != "write_manifest":
            append_parts(tmp_path / "s", [make_part(tmp_path / "p.zip", range(2, 4))])
        assert Store.open(tmp_path / "s").verify() == []


def _append_in_child(store: Path, part: Path, prepare: Callable[[], None] = lambda: None) -> int:
    if (child := os.fork()) == 0:
        prepare()
        append_parts(store, [part])
        os._exit(0)
    return child


def _die_at(step: str, after: bool) -> None:
    original = getattr(writer_module, step)

    def dying(*args):
        if after:
            original(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(writer_module, step, dying)


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.fixture
def tiny_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four chains fill a part."""
    monkeypatch.setattr(parts_module, "CHAINS_PER_PART", 4)
    monkeypatch.setattr(rearrange, "_SMALL", 2)


class TestRearrange:
    def test_parts_are_filled(self, tmp_path: Path, tiny_parts: None) -> None:
        store = make_store(tmp_path / "s", range(10))
        assert [part.counts["chains"] for part in store.manifest.parts if part.counts] == [4, 4, 2]
        for number in (9, 4, 3, 0):
            assert_same(store.record(f"c{number}"), record(number))
        with pytest.raises(FoldlineError, match="given twice"):
            make_store(tmp_path / "t", (*range(6), 0))

    def test_compact(self, tmp_path: Path, tiny_parts: None) -> None:
        make_store(tmp_path / "s", range(4))
        for number in range(4, 9):
            append_parts(tmp_path / "s", [make_part(tmp_path / "p.zip", range(number, number + 1))])
        assert main(["store", "compact", str(tmp_path / "s"), str(tmp_path / "t")]) == 0
        old, new = Store.open(tmp_path / "s"), Store.open(tmp_path / "t")
        assert (len(old.manifest.parts), len(new.manifest.parts)) == (6, 3)
        assert new.content_hash == old.content_hash
        assert new.manifest.parts[0] == old.manifest.parts[0]  # taken over as it is
        assert old.verify() == new.verify() == []

    def test_merge(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        make_store(tmp_path / "a", range(6))
        make_store(tmp_path / "b.folder", range(6, 9))
        main(["store", "copy", str(tmp_path / "b.folder"), str(tmp_path / "b.zip")])
        assert main(["store", "merge", str(tmp_path / "a"), str(tmp_path / "b.zip"), str(tmp_path / "m")]) == 0
        assert Store.open(tmp_path / "m").content_hash == make_store(tmp_path / "all", range(9)).content_hash
        make_store(tmp_path / "c", range(4, 12))
        capsys.readouterr()
        sources = [str(tmp_path / name) for name in ("a", "c", "b.zip")]
        assert main(["store", "merge", *sources, str(tmp_path / "n")]) == 2
        assert f"{tmp_path}/c repeats 2 (c4, c5); {tmp_path}/b.zip repeats 3 (c6, c7, c8); give --keep-first" in capsys.readouterr().err
        assert not (tmp_path / "n").exists()
        assert main(["store", "merge", *sources, str(tmp_path / "n"), "--keep-first"]) == 0
        assert f"3 chains of {tmp_path}/b.zip left out" in capsys.readouterr().out
        merged = Store.open(tmp_path / "n")
        assert merged.content_hash == make_store(tmp_path / "twelve", range(12)).content_hash
        assert merged.verify() == Store.open(tmp_path / "a").verify() == []

    def test_split_by_share_is_a_function_of_ids_and_seed(self, tmp_path: Path) -> None:
        make_store(tmp_path / "a", range(10))
        commit_store(tmp_path / "b", [make_part(tmp_path / "1.zip", range(5, 10)), make_part(tmp_path / "0.zip", range(5))])
        chosen = {}
        for source, seed in (("a", 1), ("b", 1), ("a", 2)):
            names = [str(tmp_path / f"{source}{seed}{half}") for half in "xy"]
            assert main(["store", "split", str(tmp_path / source), *names, "--share", "0.7", "--seed", str(seed)]) == 0
            chosen[source, seed], rest = (set(Store.open(name).chain_ids) for name in names)
            assert len(chosen[source, seed]) == 7
            assert chosen[source, seed] | rest == set(Store.open(tmp_path / "a").chain_ids)
        assert chosen["a", 1] == chosen["b", 1] != chosen["a", 2]

    def test_split_by_list_and_evenly(self, tmp_path: Path) -> None:
        make_store(tmp_path / "a", range(7))
        (tmp_path / "list").write_text("c3\n\n c5  # a comment\n")
        assert main(["store", "split", str(tmp_path / "a"), *(str(tmp_path / n) for n in "xy"), "--list", str(tmp_path / "list")]) == 0
        assert [Store.open(tmp_path / n).chain_ids for n in "xy"] == [("c3", "c5"), ("c0", "c1", "c2", "c4", "c6")]
        assert main(["store", "split", str(tmp_path / "a"), *(str(tmp_path / n) for n in "123")]) == 0
        assert [len(Store.open(tmp_path / n)) for n in "123"] == [3, 2, 2]
        assert main(["store", "append", str(tmp_path / "x"), str(tmp_path / "y")]) == 0
        assert Store.open(tmp_path / "x").content_hash == Store.open(tmp_path / "a").content_hash

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["split", "a", "x", "y", "--share", "1.5"], "must lie between 0 and 1"),
            (["split", "a", "x", "y", "--share", "0.01"], "would get none of the 3 chains"),
            (["split", "a", "x", "y", "--list", "missing"], "cannot be read as a list of chains"),
            (["split", "a", "x", "y", "--list", "empty"], "names no chain"),
            (["split", "a", "x", "y", "--list", "wrong"], r"lacks 1 of the chains to choose (c77)"),
            (["split", "a", "x", "y", "z", "--share", "0.5"], "3 destinations, but --list and --share make two"),
            (["split", "a", "x"], "a split makes at least two"),
            (["split", "a", "x", "x"], "are one path"),
            (["split", "a", "x", "list"], "already exists"),
            (["merge", "a", "missing", "x"], "does not exist"),
            (["compact", "list", "x"], "is not a Foldline store: it is not a folder"),
            (["append", "missing", "a"], "does not exist"),
            (["append", "a", "a"], "3 chains are given twice (c0, c1, c2)"),
            (["copy", "a", "file/x"], "cannot be written: "),
        ],
    )
    def test_mistakes(self, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        make_store(tmp_path / "a", range(3))
        for name, text in (("list", "c0\n"), ("empty", "\n# c0\n"), ("wrong", "c0\nc77\n"), ("file", "x")):
            (tmp_path / name).write_text(text)
        before = everything(tmp_path)
        argv = [a if a.startswith("--") or a[0].isdigit() or i == 0 else str(tmp_path / a) for i, a in enumerate(arguments)]
        assert main(["store", *argv]) == 2
        assert message in capsys.readouterr().err.replace(f"{tmp_path}/", "")
        assert everything(tmp_path) == before
        assert {p.name for p in tmp_path.iterdir()} == {"a", "list", "empty", "wrong", "file"}
