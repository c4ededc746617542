"""What became of the entries of a source: the four ways an entry can end, and what the report says of those that are stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from ..residues import RESTYPES_X
from ..types import ChainRecord

Status = Literal["stored", "repaired", "skipped", "quarantined"]


@dataclass(frozen=True)
class Facts:
    """What the report's distributions are made of: one stored chain in numbers."""

    length: int
    observed: int  # residues with coordinates
    depth: int  # rows of all alignments, the query once
    msas: int
    templates: int  # -1: no template search was made
    resolution: float  # ångström, 0 = not known
    release_date: str
    source: str
    composition: tuple[int, ...]  # residues of each type, in the order of RESTYPES and X
    passed_over: dict[str, int] = field(default_factory=dict)  # template hits that are no templates, by class of reason


@dataclass(frozen=True)
class Outcome:
    """What became of one entry, and why ('' where there is nothing to say)."""

    name: str
    status: Status
    reason: str = ""
    facts: Facts | None = None

    def to_json(self) -> dict[str, Any]:
        """The form that ``from_json`` reads back to an equal object."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Outcome:
        """An outcome that was written by ``to_json``."""
        facts = data.get("facts")
        if facts is not None:
            facts = Facts(**{**facts, "composition": tuple(facts["composition"])})
        return Outcome(data["name"], data["status"], data.get("reason", ""), facts)


def quarantined(name: str, reason: str) -> Outcome:
    """An entry that is not stored."""
    return Outcome(name, "quarantined", reason)


def stored(record: ChainRecord, notes: Iterable[str]) -> Outcome:
    """A stored entry, repaired when there is something to note."""
    reason = "; ".join(notes)
    metadata = record.metadata
    facts = Facts(
        length=len(record.sequence),
        observed=int(record.mask.any(axis=-1).sum()),
        depth=sum(len(msa.rows) for msa in record.msas),
        msas=len(record.msas),
        templates=-1 if record.templates is None else len(record.templates.aatype),
        resolution=metadata.resolution,
        release_date=metadata.release_date,
        source=metadata.source,
        composition=tuple(record.sequence.count(letter) for letter in RESTYPES_X),
    )
    return Outcome(metadata.chain_id, "repaired" if reason else "stored", reason, facts)
