"""A run of ingest may be stopped at any moment, lose workers, work on ranks, meet a changed source: the store is the same."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from foldline.data_store.ingest import IngestReport, ingest
from foldline.data_store.ingest.layouts import list_sources
from foldline.data_store.ingest.plan import make_units, unit_size
from foldline.data_store.ingest.run import IngestSettings
from foldline.data_store.store import Store
from foldline.errors import FoldlineError
from foldline.tests.data_store.ingest_cases import content, kill_all, kill_readers_of, names, run_command, run_on_ranks, start, wait_for
from foldline.tests.data_store.store_cases import DEMO

COPIES = 3


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's proteins under several names each: 24 entries, three units."""
    folder = tmp_path_factory.mktemp("many") / "source"
    for copy in range(COPIES):
        for path in sorted(DEMO.rglob("*.gz")):
            target = folder / f"copy{copy}" / f"v{copy}{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    return folder


@pytest.fixture(scope="module")
def undisturbed(source: Path) -> str:
    """The content of a store made in one go."""
    store = source.parent / "undisturbed"
    ingest(source, store)
    return content(store)


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Path:
    """A source of one's own, to be changed."""
    return Path(shutil.copytree(source, tmp_path / "source", copy_function=shutil.copy2))


class TestPlan:
    @pytest.mark.parametrize(("entries", "size"), [(1, 8), (512, 8), (513, 9), (6_400, 100), (65_536, 1024), (640_000, 1024)])
    def test_units_grow_with_the_source_within_limits(self, entries: int, size: int) -> None:
        assert unit_size(entries) == size

    def test_it_depends_on_the_source_alone(self, source: Path) -> None:
        (first,), (again,) = list_sources([source]), list_sources([source])
        units = make_units(first.entries, {"a": 1})
        assert units == make_units(tuple(reversed(again.entries)), {"a": 1})
        assert [len(unit.entries) for unit in units] == [8, 8, 8]
        assert len({unit.key for unit in (*units, *make_units(first.entries, {"a": 2}))}) == 6

    def test_a_changed_file_changes_its_unit_alone(self, copy: Path) -> None:
        before = make_units(list_sources([copy])[0].entries, {})
        os.utime(copy / "copy1" / "v11ubq_A.a3m.gz", ns=(1, 1))
        after = make_units(list_sources([copy])[0].entries, {})
        assert [a.key == b.key for a, b in zip(before, after, strict=True)] == [True, False, True]


class TestWorkers:
    def test_processes_give_the_same_store(self, source: Path, tmp_path: Path, undisturbed: str) -> None:
        done = run_command(source, tmp_path / "store", "--workers", "2")
        assert done.returncode == 0, done.stderr
        assert content(tmp_path / "store") == undisturbed
        assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "store.report"]

    def test_ranks_give_the_same_store(self, source: Path, tmp_path: Path, undisturbed: str) -> None:
        done = run_on_ranks(3, source, tmp_path / "store")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("chains stored") == 1
        assert content(tmp_path / "store") == undisturbed

    def test_an_entry_that_kills_its_readers_is_quarantined_alone(self, source: Path, tmp_path: Path) -> None:
        culprit, store = "v12hba_A", tmp_path / "store"
        dead, text = kill_readers_of(culprit, store, start(source, store, "--workers", "2"))
        assert dead >= 2
        assert f"quarantined  {culprit}: the process that read it died (signal 9" in text
        assert len(Store.open(store).chain_ids) == COPIES * 8 - 1
        assert culprit not in Store.open(store).chain_ids

    def test_no_workers(self, source: Path, tmp_path: Path) -> None:
        with pytest.raises(FoldlineError, match="--workers 0"):
            ingest(source, tmp_path / "store", IngestSettings(workers=0))
        assert list(tmp_path.iterdir()) == []


class TestStops:
    def test_killed_when_some_units_are_done(self, source: Path, tmp_path: Path, undisturbed: str) -> None:
        store = tmp_path / "store"
        job = start(source, store)
        wait_for(tmp_path / ".store.partial", "*.json", 1, job)
        kill_all(job)
        assert not store.exists()
        done = run_command(source, store)
        assert "an earlier run finished" in done.stderr
        assert content(store) == undisturbed
        assert not (tmp_path / ".store.partial").exists()

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(3))
    def test_killed_at_random_moments(self, source: Path, tmp_path: Path, undisturbed: str, seed: int) -> None:
        rng, store = random.Random(seed), tmp_path / "store"
        for _ in range(4):
            job = start(source, store, "--workers", "2")
            try:
                job.communicate(timeout=rng.uniform(0.5, 6.0))
                break
            except Exception:
                kill_all(job)
        if not store.exists() or (tmp_path / ".store.partial").exists():
            assert run_command(source, store).returncode == 0
        assert content(store) == undisturbed

    def test_killed_behind_the_commit(self, source: Path, tmp_path: Path, undisturbed: str) -> None:
        store = tmp_path / "store"
        job = start(source, store)
        wait_for(tmp_path, "store", 1, job)
        kill_all(job)
        assert content(store) == undisturbed
        if (tmp_path / ".store.partial").exists():
            done = run_command(source, store)
            assert done.returncode == 0, done.stderr
            assert content(store) == undisturbed
        assert (tmp_path / "store.report" / "report.json").exists()

    def test_only_what_changed_is_made_again(self, copy: Path, tmp_path: Path) -> None:
        store, said = tmp_path / "store", []
        job = start(copy, store)
        wait_for(tmp_path / ".store.partial", "*.json", 2, job)
        kill_all(job)
        finished = {path.name: path.stat().st_mtime_ns for path in (tmp_path / ".store.partial").glob("*-0.zip")}
        (copy / "copy0" / "v01ubq_A.a3m.gz").unlink()
        report = ingest(copy, store, say=said.append)
        assert len(finished) >= 2
        assert "an earlier run finished 1 of 3 units" in said[0]
        assert "the source changed since (v01ubq_A)" in said[1]
        assert "v01ubq_A" in names(report.repaired)
        ingest(copy, tmp_path / "again")
        assert content(store) == content(tmp_path / "again")

    def test_two_at_once(self, source: Path, tmp_path: Path) -> None:
        job = start(source, tmp_path / "store")
        wait_for(tmp_path / ".store.partial", "*.at", 1, job)
        with pytest.raises(FoldlineError, match="another process is writing this store"):
            ingest(source, tmp_path / "store")
        kill_all(job)


class TestAppend:
    def test_what_is_there_is_skipped(self, source: Path, tmp_path: Path, undisturbed: str) -> None:
        store = tmp_path / "store"
        ingest(source / "copy0", store)
        report: IngestReport = ingest(source, store, IngestSettings(append=True))
        assert (len(report.skipped), len(report.stored), len(report.quarantined)) == (8, 16, 0)
        assert content(store) == undisturbed
        nothing = ingest(source, store, IngestSettings(append=True))
        assert (len(nothing.skipped), nothing.count) == (24, 0)
        assert content(store) == undisturbed

    def test_chains_of_a_whole_file_are_skipped_one_by_one(self, tmp_path: Path) -> None:
        source, store = tmp_path / "source", tmp_path / "store"
        source.mkdir()
        shutil.copy(DEMO / "1ubq_A.cif.gz", source / "1ubq.cif.gz")
        ingest(source, store)
        shutil.copy(DEMO / "2hba_A.pdb.gz", source / "2hba.pdb.gz")
        report = ingest(source, store, IngestSettings(append=True))
        assert (names(report.skipped), names(report.repaired)) == ({"1ubq_A"}, {"2hba_A"})

    def test_without_it_a_store_is_never_touched(self, source: Path, tmp_path: Path) -> None:
        ingest(source / "copy0", tmp_path / "store")
        with pytest.raises(FoldlineError, match="already exists"):
            ingest(source / "copy1", tmp_path / "store")

    def test_to_no_store(self, source: Path, tmp_path: Path) -> None:
        with pytest.raises(FoldlineError, match="does not exist"):
            ingest(source, tmp_path / "store", IngestSettings(append=True))
        assert list(tmp_path.iterdir()) == []
