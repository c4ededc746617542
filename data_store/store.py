"""``Store``: a committed feature store, opened for reading. ``StoreWriter`` makes one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FoldlineError
from ..settings import nearest
from .arrays import ArrayReader, Range
from .columns import StoreIndex, build_index, load_columns
from .engine import tensorstore_or_none
from .manifest import Manifest, read_manifest
from .outage import StorePatience, StoreUnreachableError, patiently
from .places import Place, place_of
from .residues import decode_sequence
from .schema import DATA_ARRAYS, METADATA_NUMBERS, METADATA_TEXT
from .types import ChainMetadata, ChainRecord, Msa, Templates
from .writer import StoreWriter

__all__ = ["MsaRows", "Store", "StoreIndex", "StoreWriter"]

MsaRows = Sequence[int] | np.ndarray  # places in the rows of a chain's MSAs, counted over all of them, one behind another


class Store:
    """A store in a folder, a zip file or on S3. Only the manifest is read at once; the index at first use; a chain's arrays when asked
    for.

    It may be pickled, and a process may open one and fork: data files are opened in the process that reads a record.
    With ``patience`` every method waits for a store that cannot be reached, and then raises StoreUnreachableError.
    """

    def __init__(self, place: Place, manifest: Manifest, patience: StorePatience | None = None) -> None:
        self.path = place.path
        self.place = place
        self.manifest = manifest
        self._patience = patience or StorePatience()
        self._reader: ArrayReader | None = None

    @classmethod
    def open(cls, path: Path | str, patience: StorePatience | None = None) -> Store:
        """Open the store at ``path`` (a folder, a .zip file or s3://bucket/prefix).

        FoldlineError when there is none, it is damaged, or it has another schema version.
        """

        def open_now() -> Store:
            place = place_of(path)
            return cls(place, read_manifest(place), patience)

        return patiently(path, patience or StorePatience(), open_now)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}

    def __len__(self) -> int:
        return self.manifest.counts["chains"]

    @property
    def content_hash(self) -> str:
        """SHA-256 over the chains' contents; equal for equal content, whatever the order, parts or chunks."""
        return self.manifest.content_hash

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

    def msa_depth(self, chain_id: str) -> int:
        """Rows of all the chain's MSAs together, known without reading them."""
        return int(self._depths(self._row(chain_id)).sum())

    def record(self, chain_id: str, rows: MsaRows | None = None) -> ChainRecord:
        """Read one chain: in full, or with some rows of its MSAs, of which only the chunks that hold them are read.

        ``rows`` are places 0..msa_depth-1 in the rows of all MSAs, one behind another, in any order; the record then has a single MSA of
        these rows in this order, whose name joins the names by "+". FoldlineError for an unknown id, rows out of range, damaged files.
        """
        row = self._row(chain_id)
        what = f"chain '{chain_id}' in {self.manifest.parts[self.index.part_of(row)].file}"
        if rows is None:
            return self._guarded(what, lambda: self._read_record(row, None))
        wanted = np.asarray(rows, np.int64).reshape(-1)
        depth = self.msa_depth(chain_id)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < depth):
            outside = int(wanted[(wanted < 0) | (wanted >= depth)][0])
            raise FoldlineError(f"row {outside} of the MSAs of chain '{chain_id}' is not there; they have rows 0 to {depth - 1}")
        return self._guarded(what, lambda: self._read_record(row, wanted))

    def verify(self) -> list[str]:
        """Check every file against the manifest and every chain against its digest; one line per problem, none when all is well."""
        from .verify import find_problems

        return find_problems(self)

    def _row(self, chain_id: str) -> int:
        try:
            return self.index.rows[chain_id]
        except KeyError:
            raise FoldlineError(f"{self.path} holds no chain '{chain_id}'; {nearest(chain_id, self.chain_ids)}") from None

    def _depths(self, row: int) -> np.ndarray:
        return self.index.numbers["msa_depth"][slice(*self.index.range("msas", row))]

    def _metadata(self, row: int) -> ChainMetadata:
        fields: dict[str, Any] = {name: self.index.text[name][row] for name in METADATA_TEXT}
        fields |= {name: self.index.numbers[name][row].item() for name in METADATA_NUMBERS}
        return ChainMetadata(**fields)

    def _guarded(self, what: str, read: Callable[[], Any]) -> Any:
        def attempt() -> Any:
            try:
                return read()
            except Exception:
                self._reader = None  # files that went away and came back are opened anew
                raise

        try:
            return patiently(self.path, self._patience, attempt)
        except StoreUnreachableError:
            raise
        except Exception as error:  # over a damaged file, zarr and tensorstore raise whatever the damage leads to
            raise FoldlineError(
                f"{what} of {self.path} cannot be read ({str(error).splitlines()[0][:400] if str(error) else type(error).__name__}); "
                f"nothing of it was used; run: foldline store verify {self.path}, and restore what it names from a copy"
            ) from error

    def _read_index(self) -> StoreIndex:
        try:
            columns = load_columns(self.place, self.manifest.index.file)
        except FileNotFoundError:  # appended to twice since the manifest was read: be a reader of what is there now
            newer = read_manifest(self.place)
            if newer.generation <= self.manifest.generation:
                raise
            self.manifest = newer
            columns = load_columns(self.place, newer.index.file)
        return build_index(columns, [(part.counts or {})["chains"] for part in self.manifest.parts])

    def _read_record(self, row: int, wanted: np.ndarray | None) -> ChainRecord:
        index, length = self.index, int(self.lengths[row])
        reader = self._reader
        if reader is None or reader.process != os.getpid():
            reader = self._reader = ArrayReader(self.place, tensorstore_or_none())
        ranges: dict[str, list[Range]] = {name: [index.range_in_part(spec.axis, row)] for name, spec in DATA_ARRAYS.items()}
        if wanted is not None:
            kept, runs = row_runs(wanted, max(1, DATA_ARRAYS["msa"].chunk // length))
            base = ranges["msa"][0][0]
            ranges["msa"] = ranges["deletions"] = [(base + a * length, base + b * length) for a, b in runs]
        part = self.manifest.parts[index.part_of(row)].file
        data = reader.read(part, ranges, DATA_ARRAYS)
        if wanted is not None:
            for name in ("msa", "deletions"):
                data[name] = data[name].reshape(-1, length)[kept]
        return ChainRecord(
            metadata=self._metadata(row),
            sequence=decode_sequence(data["aatype"]),
            aatype=data["aatype"],
            residue_index=data["residue_index"],
            positions=data["positions"],
            mask=data["mask"],
            msas=self._msas(row, data) if wanted is None else self._some_rows(row, data),
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

    def _some_rows(self, row: int, data: dict[str, np.ndarray]) -> tuple[Msa, ...]:
        return (Msa("+".join(self.index.text["msa_name"][slice(*self.index.range("msas", row))]), data["msa"], data["deletions"]),)

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


def row_runs(wanted: np.ndarray, close: int) -> tuple[np.ndarray, list[Range]]:
    """The runs of rows that hold all ``wanted`` ones, where rows fewer than ``close`` apart (they share a chunk or its neighbour) are
    read in one; and where each wanted row lies in the runs put one behind another."""
    if not len(wanted):
        return wanted, []
    rows = np.unique(wanted)
    breaks = np.flatnonzero(np.diff(rows) > close)
    firsts, lasts = rows[np.concatenate([[0], breaks + 1])], rows[np.concatenate([breaks, [len(rows) - 1]])] + 1
    offsets = np.concatenate([[0], np.cumsum(lasts - firsts)[:-1]])
    run = np.searchsorted(firsts, wanted, side="right") - 1
    return offsets[run] + wanted - firsts[run], [(int(a), int(b)) for a, b in zip(firsts, lasts, strict=True)]
