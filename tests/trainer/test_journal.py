"""The journal survives crashes and resumes: no record is lost, none counts twice."""

from __future__ import annotations

import math
from pathlib import Path

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
