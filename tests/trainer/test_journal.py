"""The journal survives crashes and resumes: no record is lost, none counts twice."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from foldline.trainer.journal import Journal, read_after, read_journal


def write(path: Path, kind: str, *steps: int, value: float = 1.0) -> None:
    journal = Journal(path)
    for step in steps:
        journal.append(kind, step, {"loss/total": value})
    journal.close()


def test_records_come_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append("train", 1, {"loss/total": 0.1 + 0.2, "bad": math.nan})
    journal.append("validate", 1, {"validate/trained/lddt_ca": 0.5})
    first, second = read_journal(tmp_path / "metrics.jsonl")  # without close: a line is there at once
    assert (first.kind, first.step, first.metrics["loss/total"]) == ("train", 1, 0.1 + 0.2)
    assert math.isnan(first.metrics["bad"])
    assert second.kind == "validate"


def test_a_resume_voids_what_came_after_its_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, "train", 1, 2, 3, 4)
    write(path, "resume", 2)
    write(path, "train", 3, 4, 5, value=2.0)
    assert [(r.step, r.metrics["loss/total"]) for r in read_journal(path)] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]


def test_a_torn_last_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, "train", 1, 2)
    path.write_bytes(path.read_bytes()[:-9])
    assert [r.step for r in read_journal(path)] == [1]
    write(path, "train", 3)
    assert [r.step for r in read_journal(path)] == [1, 3]


def test_reading_on_from_an_offset_sees_each_record_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, "train", 1, 2, 3)
    part = read_after(path, 0, limit=2)
    assert [r.step for r in part.records] == [1, 2]
    with path.open("a") as file:
        file.write('{"kind": "train", "st')  # a line that is still being written
    rest = read_after(path, part.end)
    assert [r.step for r in rest.records] == [3]
    assert read_after(path, rest.end) == ([], rest.end)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """64 KiB of memory as a file system."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip() or 'root is needed'}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_makes_lines_wait_and_loses_none(full_disk: Path) -> None:
    journal = Journal(full_disk / "metrics.jsonl")
    filler = full_disk / "filler"
    filler.write_bytes(bytes(50_000))
    steps = range(1, 201)
    for step in steps:  # about 120 bytes each: the disk is full in the middle of a line
        journal.append("train", step, {"loss/total": step / 7, "optim/lr": 1e-3})
    assert "No space left" in journal.trouble
    assert "No space left" in journal.sync()
    there = [r.step for r in read_journal(journal.path)]
    assert 0 < len(there) < 200
    assert there == list(steps)[: len(there)]
    filler.unlink()
    journal.append("train", 201, {"loss/total": 0.0})
    assert journal.trouble == ""
    assert journal.close() == ""
    assert [r.step for r in read_journal(journal.path)] == [*steps, 201]
    assert [r.metrics["loss/total"] for r in read_journal(journal.path)][:200] == [step / 7 for step in steps]


def test_a_journal_that_a_crash_cut_is_read_from_its_beginning(tmp_path: Path) -> None:
    """A host that went down may cost a journal its end after a tracker has read it; the next start then writes other bytes there."""
    path = tmp_path / "metrics.jsonl"
    line = '{{"kind": "train", "step": {}, "time": 1.5, "metrics": {{}}}}\n'
    path.write_text("".join(map(line.format, (1, 2, 3))))
    offset = read_after(path, 0).end
    path.write_text(line.format(1) + line.format(2)[:20] + "\n" + "".join(map(line.format, (2, 3, 4, 5))))
    assert [r.step for r in read_after(path, offset).records] == [1, 2, 3, 4, 5]
    assert read_after(path, path.stat().st_size) == ([], path.stat().st_size)
