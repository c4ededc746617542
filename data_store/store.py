"""``Store``: a committed feature store, opened for reading. ``StoreWriter`` makes one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FoldlineError
from ..settings import nearest
from .arrays import ArrayReader
from .manifest import read_manifest
from .residues import decode_sequence
from .schema import DATA_ARRAYS, INDEX_ARRAYS, METADATA_NUMBERS, METADATA_TEXT, TEXT_ARRAYS
from .types import ChainMetadata, ChainRecord, Msa, Templates
from .writer import StoreWriter

__all__ = ["Store", "StoreIndex", "StoreWriter"]

# The process that started tensorstore's threads. They do not survive a fork, so a child of that process reads with zarr-python instead.
_tensorstore_process: int | None = None


@dataclass(frozen=True)
class StoreIndex:
    """The columns of a store: ``numbers`` and ``text`` by array name, and where each chain's part of each axis begins."""

    numbers: dict[str, np.ndarray]
    text: dict[str, list[str]]
    rows: dict[str, int]  # chain id -> row
    starts: dict[str, np.ndarray]  # axis -> [N_chains + 1]; the axes of DATA_ARRAYS, and msas, templates
    msa_cells: np.ndarray  # [N_msas + 1]

    def range(self, axis: str, row: int) -> tuple[int, int]:
        """First and last+1 element of chain ``row`` on ``axis``."""
        return int(self.starts[axis][row]), int(self.starts[axis][row + 1])


class Store:
    """A store on disk. Only the manifest is read at once; the index at first use; a chain's arrays when asked for.

    It may be pickled, and a process may open one and fork: data files are opened in the process that reads a record.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self._reader: ArrayReader | None = None

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open the store at ``path``; FoldlineError when there is none, it is damaged, or it has another schema version."""
        return cls(Path(path), read_manifest(Path(path)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}

    def __len__(self) -> int:
        return int(self.manifest["counts"]["chains"])

    @property
    def content_hash(self) -> str:
        """SHA-256 over the chains' contents; equal for equal content, whatever the order or chunking."""
        return str(self.manifest["content_hash"])

    @property
    def chain_ids(self) -> tuple[str, ...]:
        """All chain ids in the order in which they were written."""
        return tuple(self.index.rows)

    @property
    def lengths(self) -> np.ndarray:
        """int32 [N_chains]: residues per chain, in the order of ``chain_ids``."""
        return self.index.numbers["length"]

    @cached_property
    def index(self) -> StoreIndex:
        """The columns, read once. FoldlineError when they are damaged."""
        return self._guarded("the index", self._read_index)

    def metadata(self, chain_id: str) -> ChainMetadata:
        """What is known of a chain without reading its arrays."""
        return self._metadata(self._row(chain_id))

    def record(self, chain_id: str) -> ChainRecord:
        """Read one chain in full. FoldlineError for an unknown id or damaged files."""
        row = self._row(chain_id)
        return self._guarded(f"chain '{chain_id}'", lambda: self._read_record(row))

    def verify(self) -> list[str]:
        """Check every file against the manifest and every chain against its digest; one line per problem, none when all is well."""
        from .verify import find_problems

        return find_problems(self)

    def _row(self, chain_id: str) -> int:
        try:
            return self.index.rows[chain_id]
        except KeyError:
            raise FoldlineError(f"{self.path} holds no chain '{chain_id}'; {nearest(chain_id, self.chain_ids)}") from None

    def _metadata(self, row: int) -> ChainMetadata:
        fields: dict[str, Any] = {name: self.index.text[name][row] for name in METADATA_TEXT}
        fields |= {name: self.index.numbers[name][row].item() for name in METADATA_NUMBERS}
        return ChainMetadata(**fields)

    def _guarded(self, what: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except Exception as error:  # over a damaged file, zarr and tensorstore raise whatever the damage leads to
            raise FoldlineError(
                f"{what} of {self.path} cannot be read ({str(error).splitlines()[0][:200] if str(error) else type(error).__name__}); "
                f"run: foldline store verify {self.path}"
            ) from error

    def _read_index(self) -> StoreIndex:
        reader = ArrayReader(self.path)
        numbers = {name: reader.whole(name) for name in INDEX_ARRAYS}
        text = {name: reader.whole(name).tobytes().decode().split("\n")[:-1] for name in TEXT_ARRAYS}
        length, n_msas, n_templates = (numbers[n].astype(np.int64) for n in ("length", "n_msas", "n_templates"))
        msa_starts, msa_lengths = _starts(n_msas), np.repeat(length, n_msas)
        msa_cells = _starts(msa_lengths * numbers["msa_depth"])
        n_templates = np.maximum(n_templates, 0)
        starts = {
            "residues": _starts(length),
            "plddts": _starts(length * numbers["has_plddt"]),
            "msas": msa_starts,
            "cells": msa_cells[msa_starts],
            "templates": _starts(n_templates),
            "template_residues": _starts(n_templates * length),
        }
        rows = {chain_id: row for row, chain_id in enumerate(text["chain_id"])}
        if len(rows) != len(self):
            raise ValueError(f"{len(rows)} chain ids for {len(self)} chains")
        return StoreIndex(numbers, text, rows, starts, msa_cells)

    def _read_record(self, row: int) -> ChainRecord:
        index = self.index
        if self._reader is None or self._reader.process != os.getpid():
            self._reader = ArrayReader(self.path, _tensorstore_or_none())
        data = self._reader.read({name: index.range(spec.axis, row) for name, spec in DATA_ARRAYS.items()}, DATA_ARRAYS)
        return ChainRecord(
            metadata=self._metadata(row),
            sequence=decode_sequence(data["aatype"]),
            aatype=data["aatype"],
            residue_index=data["residue_index"],
            positions=data["positions"],
            mask=data["mask"],
            msas=self._msas(row, data),
            templates=self._templates(row, data),
            plddt=data["plddt"] if index.numbers["has_plddt"][row] else None,
        )

    def _msas(self, row: int, data: dict[str, np.ndarray]) -> tuple[Msa, ...]:
        index, length = self.index, int(self.lengths[row])
        first, last = index.range("msas", row)
        base = index.msa_cells[first]
        msas = []
        for i in range(first, last):
            cells = slice(int(index.msa_cells[i] - base), int(index.msa_cells[i + 1] - base))
            rows, deletions = (data[name][cells].reshape(-1, length) for name in ("msa", "deletions"))
            msas.append(Msa(index.text["msa_name"][i], rows, deletions))
        return tuple(msas)

    def _templates(self, row: int, data: dict[str, np.ndarray]) -> Templates | None:
        count, length = int(self.index.numbers["n_templates"][row]), int(self.lengths[row])
        if count < 0:
            return None
        first, last = self.index.range("templates", row)
        aatype, positions, mask = (
            data[f"template_{n}"].reshape(count, length, *t) for n, t in (("aatype", ()), ("positions", (37, 3)), ("mask", (37,)))
        )
        names = tuple(self.index.text["template_name"][first:last])
        return Templates(aatype, positions, mask, names, self.index.numbers["template_sum_probs"][first:last])


def _starts(lengths: np.ndarray) -> np.ndarray:
    """[N] lengths -> [N+1] offsets, int64."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _tensorstore_or_none() -> Any:
    """The tensorstore module, or None where it is not installed or its threads were left behind by a fork."""
    global _tensorstore_process
    if _tensorstore_process not in (None, os.getpid()):
        return None
    try:
        import tensorstore
    except ImportError:
        return None
    _tensorstore_process = os.getpid()
    return tensorstore
