"""Parsers against what DeepMind's parsers made of the same files: alignments, conversions, repeats, HHR hits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from foldline.data_store.features.msa import unique_rows
from foldline.data_store.parse.a3m import ParsedA3m, encode_letters, parse_a3m
from foldline.data_store.parse.hhr import read_hhr
from foldline.data_store.parse.stockholm import parse_stockholm, stockholm_to_a3m
from foldline.data_store.types import Msa
from foldline.tests.reference.raw_cases import INPUTS, need, stored

ALIGNMENTS = {name: name for name, case in stored("parsers_msa").items() if "sequences" in case}
STOCKHOLMS = {name: name for name in ALIGNMENTS if name.endswith("sto")}
WHOLE_FILES = {name: name for name in STOCKHOLMS if "deduplicate" in stored("parsers_msa")[name]}
HITS = {hit["name"].split()[0]: hit for hit in stored("parsers_hhr")}


def text(name: str) -> bytes:
    case = stored("parsers_msa")[name]
    return case["input"].encode() if "input" in case else (INPUTS / name).read_bytes()


def parse(name: str) -> ParsedA3m:
    return (parse_stockholm if name.endswith("sto") else parse_a3m)(text(name), name)


def encoded(sequences: list[str]) -> np.ndarray:
    return np.stack([encode_letters(sequence.encode()) for sequence in sequences])


@pytest.mark.parametrize("name", need(ALIGNMENTS, "parsers_msa.json"))
def test_alignments(name: str) -> None:
    theirs, ours = stored("parsers_msa")[name], parse(name)
    np.testing.assert_array_equal(ours.rows, encoded(theirs["sequences"]))
    np.testing.assert_array_equal(ours.deletions, theirs["deletion_matrix"])
    assert ours.names == tuple(theirs["descriptions"])
    assert ours.notes == ()


@pytest.mark.parametrize("name", need(STOCKHOLMS, "Stockholm files"))
def test_stockholm_becomes_the_same_a3m(name: str) -> None:
    theirs = stored("parsers_msa")[name]
    converted = theirs.get("convert_stockholm_to_a3m", theirs.get("a3m"))
    assert stockholm_to_a3m(text(name), name) == converted
    if first := theirs.get("convert_stockholm_to_a3m_max5"):
        assert "".join(f">{record}" for record in converted.split(">")[1:6]) == first


@pytest.mark.parametrize("name", need(STOCKHOLMS, "Stockholm files"))
def test_their_a3m_reads_as_the_stockholm_file(name: str) -> None:
    theirs = stored("parsers_msa")[name]
    again, ours = parse_a3m(theirs.get("convert_stockholm_to_a3m", theirs.get("a3m")).encode(), name), parse(name)
    np.testing.assert_array_equal(again.rows, ours.rows)
    np.testing.assert_array_equal(again.deletions, ours.deletions)


@pytest.mark.parametrize("name", need(WHOLE_FILES, "Stockholm files"))
@pytest.mark.parametrize("edited", ["deduplicate", "remove_empty_columns_of_deduplicated"])
def test_repeated_rows_are_theirs(name: str, edited: str) -> None:
    """Their shortened file holds the rows that ``unique_rows`` keeps, whether empty columns are left in it or not."""
    ours = parse(name)
    (kept,) = unique_rows([Msa(name, ours.rows, ours.deletions)])
    theirs = parse_stockholm(stored("parsers_msa")[name][edited].encode(), name)
    np.testing.assert_array_equal(theirs.rows, kept.rows)
    np.testing.assert_array_equal(theirs.deletions, kept.deletions)


@pytest.mark.parametrize("name", need(WHOLE_FILES, "Stockholm files"))
def test_a_shortened_file_holds_the_first_rows(name: str) -> None:
    ours, theirs = parse(name), parse_stockholm(stored("parsers_msa")[name]["truncate_4"].encode(), name)
    assert theirs.names == ours.names[: len(theirs.names)]
    assert len(theirs.names) == 4
    np.testing.assert_array_equal(theirs.rows, ours.rows[:4])
    np.testing.assert_array_equal(theirs.deletions, ours.deletions[:4])


@pytest.mark.parametrize("theirs", need(HITS, "parsers_hhr.json"))
def test_hhr_hits_field_by_field(theirs: dict[str, Any]) -> None:
    ours = read_hhr(INPUTS / "pdb70_hits.hhr")
    assert len(ours) == len(HITS)
    hit = ours[theirs["index"] - 1]
    for name, value in theirs.items():
        assert getattr(hit, name) == (tuple(value) if isinstance(value, list) else value), name
