"""``StoreWriter``: builds a store in a folder beside its destination and moves it there when it is complete."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType

import numpy as np

from ..errors import FoldlineError
from .arrays import ArrayAppender, create_group
from .digest import content_digest, record_digest
from .manifest import write_manifest
from .residues import N_ATOM37, decode_sequence, largest_share
from .schema import ALL_ARRAYS, DATA_ARRAYS, METADATA_NUMBERS, METADATA_TEXT, SCHEMA_VERSION
from .types import ChainRecord, Msa, Templates


class StoreWriter:
    """``with StoreWriter(path) as writer: writer.add(record)``: the store appears at ``path`` when the block ends without an error.

    Until then everything lies in ``.NAME.partial`` beside ``path``; a run that was killed leaves only that folder, and the next
    writer of the same path removes it. Raises FoldlineError when ``path`` exists or another process is writing it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        refuse_existing(path)
        self._partial = path.absolute().parent / f".{path.name}.partial"
        self._lock = _claim(self._partial)
        create_group(self._partial)
        self._digests: dict[str, bytes] = {}
        self._index: dict[str, list[int | float | np.ndarray]] = {n: [] for n in ALL_ARRAYS if n not in DATA_ARRAYS}
        self._text: dict[str, list[str]] = {n: [] for n in (*METADATA_TEXT, "msa_name", "template_name")}
        self._counts = dict.fromkeys(("chains", "residues", "msas", "msa_cells", "templates"), 0)
        self._data = {name: ArrayAppender(self._partial, name, spec) for name, spec in DATA_ARRAYS.items()}

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)
            os.close(self._lock)

    def add(self, record: ChainRecord) -> None:
        """Append one chain. Raises FoldlineError when it breaks a rule of ``ChainRecord`` or its id is already there."""
        check_record(record)
        if record.metadata.chain_id in self._digests:
            raise FoldlineError(f"chain '{record.metadata.chain_id}' is given twice; chain ids are unique in a store")
        self._digests[record.metadata.chain_id] = record_digest(record)
        self._add_data(record)
        self._add_index(record)

    def _add_data(self, record: ChainRecord) -> None:
        for name in ("aatype", "residue_index", "positions", "mask"):
            self._data[name].append(getattr(record, name))
        if record.plddt is not None:
            self._data["plddt"].append(record.plddt)
        for msa in record.msas:
            self._data["msa"].append(msa.rows.reshape(-1))
            self._data["deletions"].append(msa.deletions.reshape(-1))
        if record.templates is not None:
            for name in ("aatype", "positions", "mask"):
                stacked = getattr(record.templates, name)
                self._data[f"template_{name}"].append(stacked.reshape(-1, *stacked.shape[2:]))

    def _add_index(self, record: ChainRecord) -> None:
        metadata, templates, index = record.metadata, record.templates, self._index
        for name in METADATA_TEXT:
            self._text[name].append(getattr(metadata, name))
        for name in METADATA_NUMBERS:
            index[name].append(getattr(metadata, name))
        index["length"].append(len(record.sequence))
        index["n_msas"].append(len(record.msas))
        index["n_templates"].append(-1 if templates is None else len(templates.aatype))
        index["has_plddt"].append(int(record.plddt is not None))
        index["largest_share"].append(largest_share(record.aatype))
        index["sha256"].append(np.frombuffer(self._digests[metadata.chain_id], np.uint8))
        index["msa_depth"].extend(len(msa.rows) for msa in record.msas)
        self._text["msa_name"].extend(msa.name for msa in record.msas)
        if templates is not None:
            index["template_sum_probs"].extend(templates.sum_probs)
            self._text["template_name"].extend(templates.names)
        added = (
            1,
            len(record.sequence),
            len(record.msas),
            sum(m.rows.size for m in record.msas),
            len(templates.aatype) if templates else 0,
        )
        self._counts = {name: count + more for (name, count), more in zip(self._counts.items(), added, strict=True)}

    def _commit(self) -> None:
        for appender in self._data.values():
            appender.close()
        text = {name: np.frombuffer("".join(f"{v}\n" for v in values).encode(), np.uint8) for name, values in self._text.items()}
        for name, spec in ALL_ARRAYS.items():
            if name not in DATA_ARRAYS:
                values = text[name] if name in text else np.array(self._index[name], spec.dtype).reshape(-1, *spec.tail)
                appender = ArrayAppender(self._partial, name, spec)
                appender.append(values)
                appender.close()
        write_manifest(self._partial, self._counts, content_digest(SCHEMA_VERSION, self._digests.items()))
        refuse_existing(self.path)
        self._partial.rename(self.path.absolute())
        descriptor = os.open(self.path.absolute().parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def refuse_existing(path: Path) -> None:
    """FoldlineError when something lies at ``path``."""
    if os.path.lexists(path):
        raise FoldlineError(f"{path} already exists; a store is never overwritten: remove it or give --store another path")


def check_record(record: ChainRecord) -> None:
    """FoldlineError naming the first rule of ``ChainRecord`` that ``record`` breaks."""
    n_res = len(record.sequence)
    _demand(record, n_res > 0, "its sequence is empty")
    _array(record, "aatype", record.aatype, "int8", (n_res,))
    _array(record, "residue_index", record.residue_index, "int32", (n_res,))
    _array(record, "positions", record.positions, "float32", (n_res, N_ATOM37, 3))
    _array(record, "mask", record.mask, "uint8", (n_res, N_ATOM37))
    _demand(record, bool(((record.aatype >= 0) & (record.aatype <= 20)).all()), "aatype is not within 0..20")
    _demand(record, decode_sequence(record.aatype) == record.sequence, "sequence and aatype differ (letters: the twenty and X)")
    _demand(record, bool(np.isfinite(record.positions).all()), "positions are not all finite")
    _demand(record, bool((record.mask <= 1).all()), "mask holds values other than 0 and 1")
    _demand(record, len(record.msas) > 0, "it has no MSA; give at least the query alone")
    for msa in record.msas:
        _check_msa(record, msa)
    if record.templates is not None:
        _check_templates(record, record.templates)
    if record.plddt is not None:
        _array(record, "plddt", record.plddt, "float32", (n_res,))
    names = (*(getattr(record.metadata, n) for n in METADATA_TEXT), *(m.name for m in record.msas))
    _demand(record, not any("\n" in text for text in names), "a text value holds a line feed")
    _demand(record, bool(record.metadata.chain_id), "its chain id is empty")


def _check_msa(record: ChainRecord, msa: Msa) -> None:
    shape = (max(len(msa.rows), 1), len(record.sequence))
    _array(record, f"MSA '{msa.name}'", msa.rows, "uint8", shape)
    _array(record, f"deletions of MSA '{msa.name}'", msa.deletions, "uint8", shape)
    _demand(record, bool((msa.rows <= 21).all()), f"MSA '{msa.name}' is not within 0..21")
    _demand(record, bool((msa.rows[0] == record.aatype).all()), f"row 0 of MSA '{msa.name}' is not the chain's sequence")


def _check_templates(record: ChainRecord, templates: Templates) -> None:
    shape = (len(templates.aatype), len(record.sequence))
    _array(record, "template aatype", templates.aatype, "int8", shape)
    _array(record, "template positions", templates.positions, "float32", (*shape, N_ATOM37, 3))
    _array(record, "template mask", templates.mask, "uint8", (*shape, N_ATOM37))
    _array(record, "template sum_probs", templates.sum_probs, "float32", shape[:1])
    _demand(record, len(templates.names) == shape[0], f"{shape[0]} templates have {len(templates.names)} names")
    _demand(record, not any("\n" in name for name in templates.names), "a template's name holds a line feed")


def _array(record: ChainRecord, what: str, array: np.ndarray, dtype: str, shape: tuple[int, ...]) -> None:
    fits = array.dtype == np.dtype(dtype) and array.shape == shape
    _demand(record, fits, f"{what} is {array.dtype} {list(array.shape)}, not {dtype} {list(shape)}")


def _demand(record: ChainRecord, holds: bool, problem: str) -> None:
    if not holds:
        raise FoldlineError(f"chain '{record.metadata.chain_id}' cannot be stored: {problem}")


def _claim(partial: Path) -> int:
    """Make ``partial`` empty and ours: its lock (a file descriptor) goes with the process, so a killed run leaves no lock behind."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FoldlineError(f"{partial.parent} cannot be made a folder for the store: {error.strerror}; give another path") from None
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise FoldlineError(f"another process is writing this store ({partial} is locked); wait for it or give another path") from None
    for entry in partial.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return descriptor
