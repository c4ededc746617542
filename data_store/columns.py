"""The columns of a store: one value per chain, MSA or template. Gathered while writing, joined over parts, searched while reading."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .arrays import GroupWriter, read_columns
from .places import Place
from .residues import largest_share
from .schema import INDEX_ARRAYS, METADATA_NUMBERS, METADATA_TEXT, TEXT_ARRAYS
from .types import ChainRecord


@dataclass(frozen=True)
class Columns:
    """``numbers`` (arrays of INDEX_ARRAYS) and ``text`` (lists, names of TEXT_ARRAYS) of some chains, in their order."""

    numbers: dict[str, np.ndarray]
    text: dict[str, list[str]]

    @property
    def digests(self) -> dict[str, bytes]:
        """Chain id -> SHA-256 of its content."""
        return {chain_id: row.tobytes() for chain_id, row in zip(self.text["chain_id"], self.numbers["sha256"], strict=True)}

    def counts(self) -> dict[str, int]:
        """What a manifest says of these chains."""
        length, n_msas = (self.numbers[name].astype(np.int64) for name in ("length", "n_msas"))
        return {
            "chains": len(length),
            "residues": int(length.sum()),
            "msas": int(n_msas.sum()),
            "msa_cells": int((np.repeat(length, n_msas) * self.numbers["msa_depth"]).sum()),
            "templates": int(np.maximum(self.numbers["n_templates"], 0).sum()),
        }

    def encoded(self) -> dict[str, np.ndarray]:
        """The arrays as they are stored."""
        text = {name: np.frombuffer("".join(f"{v}\n" for v in values).encode(), np.uint8) for name, values in self.text.items()}
        return {**self.numbers, **text}


class ColumnsBuilder:
    """Takes records one by one."""

    def __init__(self) -> None:
        self._numbers: dict[str, list[int | float | np.ndarray]] = {name: [] for name in INDEX_ARRAYS}
        self._text: dict[str, list[str]] = {name: [] for name in TEXT_ARRAYS}

    def add(self, record: ChainRecord, digest: bytes) -> None:
        """Append one chain's values."""
        metadata, templates, numbers = record.metadata, record.templates, self._numbers
        for name in METADATA_TEXT:
            self._text[name].append(getattr(metadata, name))
        for name in METADATA_NUMBERS:
            numbers[name].append(getattr(metadata, name))
        numbers["length"].append(len(record.sequence))
        numbers["n_msas"].append(len(record.msas))
        numbers["n_templates"].append(-1 if templates is None else len(templates.aatype))
        numbers["has_plddt"].append(int(record.plddt is not None))
        numbers["largest_share"].append(largest_share(record.aatype))
        numbers["sha256"].append(np.frombuffer(digest, np.uint8))
        numbers["msa_depth"].extend(len(msa.rows) for msa in record.msas)
        self._text["msa_name"].extend(msa.name for msa in record.msas)
        if templates is not None:
            numbers["template_sum_probs"].extend(templates.sum_probs)
            self._text["template_name"].extend(templates.names)

    def columns(self) -> Columns:
        """Everything so far."""
        numbers = {n: np.array(v, INDEX_ARRAYS[n].dtype).reshape(-1, *INDEX_ARRAYS[n].tail) for n, v in self._numbers.items()}
        return Columns(numbers, self._text)


def join_columns(parts: Sequence[Columns]) -> Columns:
    """The columns of all chains of ``parts``, one part behind another."""
    numbers = {
        n: np.concatenate([np.zeros((0, *spec.tail), spec.dtype), *(p.numbers[n] for p in parts)]) for n, spec in INDEX_ARRAYS.items()
    }
    return Columns(numbers, {name: [value for part in parts for value in part.text[name]] for name in TEXT_ARRAYS})


def load_columns(place: Place, name: str) -> Columns:
    """The columns in the part or index file ``name``."""
    arrays = read_columns(place, name, INDEX_ARRAYS | TEXT_ARRAYS)
    text = {array: arrays.pop(array).tobytes().decode().split("\n")[:-1] for array in TEXT_ARRAYS}
    return Columns(arrays, text)


def save_columns(path: Path, columns: Columns) -> None:
    """Write an index file."""
    writer = GroupWriter(path, INDEX_ARRAYS | TEXT_ARRAYS)
    append_columns(writer, columns)
    writer.close()


def append_columns(writer: GroupWriter, columns: Columns) -> None:
    """Add the columns to a group under construction."""
    for name, array in columns.encoded().items():
        writer.append(name, array)


@dataclass(frozen=True)
class StoreIndex:
    """The columns of a store: ``numbers`` and ``text`` by array name, and where each chain's share of each axis begins."""

    numbers: dict[str, np.ndarray]
    text: dict[str, list[str]]
    rows: dict[str, int]  # chain id -> row
    starts: dict[str, np.ndarray]  # axis -> [N_chains + 1]; the axes of DATA_ARRAYS, and msas, templates; counted over all parts
    msa_cells: np.ndarray  # [N_msas + 1]
    part_rows: np.ndarray  # [N_parts + 1] first row of each part

    def range(self, axis: str, row: int) -> tuple[int, int]:
        """First and last+1 element of chain ``row`` on ``axis``, counted over all parts."""
        return int(self.starts[axis][row]), int(self.starts[axis][row + 1])

    def part_of(self, row: int) -> int:
        """The number of the part that holds chain ``row``."""
        return int(np.searchsorted(self.part_rows, row, side="right")) - 1

    def range_in_part(self, axis: str, row: int) -> tuple[int, int]:
        """First and last+1 element of chain ``row`` on ``axis`` of its part."""
        base = int(self.starts[axis][self.part_rows[self.part_of(row)]])
        start, stop = self.range(axis, row)
        return start - base, stop - base


def build_index(columns: Columns, chains_per_part: Iterable[int]) -> StoreIndex:
    """Offsets from lengths. ValueError when ids are given twice or the parts' chains do not add up."""
    numbers = columns.numbers
    length, n_msas, n_templates = (numbers[n].astype(np.int64) for n in ("length", "n_msas", "n_templates"))
    msa_starts = _starts(n_msas)
    msa_cells = _starts(np.repeat(length, n_msas) * numbers["msa_depth"])
    n_templates = np.maximum(n_templates, 0)
    starts = {
        "residues": _starts(length),
        "plddts": _starts(length * numbers["has_plddt"]),
        "msas": msa_starts,
        "cells": msa_cells[msa_starts],
        "templates": _starts(n_templates),
        "template_residues": _starts(n_templates * length),
    }
    rows = {chain_id: row for row, chain_id in enumerate(columns.text["chain_id"])}
    part_rows = _starts(np.array(list(chains_per_part), np.int64))
    if not len(rows) == len(length) == part_rows[-1]:
        raise ValueError(f"{len(rows)} chain ids for {len(length)} chains in parts of {part_rows[-1]}")
    return StoreIndex(numbers, columns.text, rows, starts, msa_cells, part_rows)


def _starts(lengths: np.ndarray) -> np.ndarray:
    """[N] lengths -> [N+1] offsets, int64."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
