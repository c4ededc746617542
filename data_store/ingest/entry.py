"""The plain description of what is to be stored, as every layout gives it: structure files, and the chains wanted of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..metadata_table import Overrides
from .outcome import Outcome


@dataclass(frozen=True)
class Wanted:
    """One chain of a structure file and the files that belong to it."""

    chain_id: str
    chain: str  # author chain name; "" = the file's only protein chain
    msas: tuple[Path, ...] = ()
    hits: tuple[Path, ...] = ()
    columns: tuple[int, int] | None = None  # the alignment's columns of this chain, where it covers a whole complex


@dataclass(frozen=True)
class Entry:
    """One structure file: read once, by one process. ``name`` is unique in a listing."""

    name: str
    structure: Path
    wanted: tuple[Wanted, ...]
    rest: bool = False  # its other chains are stored too, as NAME_CHAIN
    taken: tuple[str, ...] = ()  # chain ids that other entries give
    source: str = "experimental"
    overrides: dict[str, Overrides] = field(default_factory=dict)  # by chain id

    def files(self) -> Iterator[Path]:
        """Every file that the entry is made of."""
        yield self.structure
        for wanted in self.wanted:
            yield from wanted.msas
            yield from wanted.hits


@dataclass(frozen=True)
class Listing:
    """What a layout finds in a source: entries to read, what can be judged without reading, and chain ids that a table promises."""

    layout: str
    entries: tuple[Entry, ...]
    outcomes: tuple[Outcome, ...] = ()
    promised: tuple[tuple[str, str], ...] = ()  # (chain id, where it is named)
    remarks: tuple[str, ...] = ()
