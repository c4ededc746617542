"""Hits and structures -> ``Templates`` in the query's numbering (AF2 supplement 1.2.3): done once, at ingest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...errors import FoldlineError
from ..parse.a3m import encode_letters
from ..residues import CA, GAP, N_ATOM37
from ..types import Templates
from .align import place_hit
from .hit import TemplateHit
from .limits import TemplateLimits
from .structures import TemplateStructures

_MIN_ATOMS = 5  # of an alanine
_MAX_CA_DISTANCE = 150.0  # ångström between neighbours: further apart than that, the coordinates are damaged


def build_templates(
    query: str, hits: Sequence[TemplateHit], structures: TemplateStructures, limits: TemplateLimits
) -> tuple[Templates, tuple[str, ...]]:
    """The first ``limits.max_hits`` usable hits as templates of ``query``, and a note 'template NAME: reason' for each that was passed
    over or realigned.

    HHsearch hits are taken by falling ``sum_probs`` (ties: the file's order), others in the given order and each aligned sequence once.
    A hit that cannot be used is never an error here: search results are richer than any folder of structures.
    """
    found: list[Templates] = []
    sum_probs: list[float] = []
    notes: list[str] = []
    seen: set[bytes] = set()
    for hit in sorted(hits, key=lambda hit: -(hit.sum_probs or 0.0)):
        if len(found) >= limits.max_hits:
            break
        try:
            one, note = _one_template(query, hit, structures, limits)
        except FoldlineError as refusal:
            notes.append(f"template {hit.label}: {refusal}")
            continue
        if hit.sum_probs is None and one.aatype.tobytes() in seen:
            notes.append(f"template {hit.label}: its aligned sequence is that of a template before it")
            continue
        seen.add(one.aatype.tobytes())
        notes += [f"template {hit.label}: {note}"] if note else []
        found.append(one)
        sum_probs.append(hit.sum_probs or 0.0)
    none = _empty(len(query), 0)
    return Templates(
        aatype=np.concatenate([none.aatype, *(one.aatype for one in found)]),
        positions=np.concatenate([none.positions, *(one.positions for one in found)]),
        mask=np.concatenate([none.mask, *(one.mask for one in found)]),
        names=tuple(name for one in found for name in one.names),
        sum_probs=np.array(sum_probs, np.float32),
    ), tuple(notes)


def _empty(n_res: int, count: int) -> Templates:
    """``count`` templates that are gap and masked everywhere."""
    return Templates(
        aatype=np.full((count, n_res), GAP, np.int8),
        positions=np.zeros((count, n_res, N_ATOM37, 3), np.float32),
        mask=np.zeros((count, n_res, N_ATOM37), np.uint8),
    )


def _one_template(query: str, hit: TemplateHit, structures: TemplateStructures, limits: TemplateLimits) -> tuple[Templates, str]:
    """One hit as a single template and a note ('' when there is nothing to say); FoldlineError says why it is none."""
    if reason := limits.refusal(hit, query):
        raise FoldlineError(reason)
    pairs = _query_places(query, hit)
    pdb_id = structures.current_id(hit.pdb_id)
    if limits.query_pdb_id and pdb_id == limits.query_pdb_id.lower():
        raise FoldlineError("is the query's own entry")
    entry = structures.open(pdb_id)
    if reason := limits.refusal_by_date(entry.release_date):
        raise FoldlineError(reason)
    placement = place_hit(hit.letters, hit.chain, entry)
    _demand_connected(placement.chain.positions[:, CA], placement.chain.mask[:, CA] > 0)
    pairs = pairs[placement.places[pairs[:, 1]] >= 0]
    places = placement.places[pairs[:, 1]]
    one = replace(_empty(len(query), 1), names=(f"{pdb_id}_{placement.chain.name}",))
    one.aatype[0, pairs[:, 0]] = encode_letters(placement.letters.encode())[pairs[:, 1]]
    one.positions[0, pairs[:, 0]], one.mask[0, pairs[:, 0]] = placement.chain.positions[places], placement.chain.mask[places]
    if one.mask.sum() < _MIN_ATOMS:
        raise FoldlineError("none of its aligned residues is observed")
    note = "its sequence in the structure differs: realigned" if placement.realigned else ""
    return one, note


def _query_places(query: str, hit: TemplateHit) -> np.ndarray:
    """``hit.pairs()`` with places in ``query``: by the hit's own numbers, or shifted when its row stands elsewhere in ``query``."""
    pairs = hit.pairs()
    row = hit.query.replace("-", "")
    start = min(number for number in hit.indices_query if number >= 0)
    if query[start : start + len(row)] == row:
        return pairs
    found = query.find(row)
    if found < 0:
        raise FoldlineError("its row of the query is no part of the query: the search was made with another sequence")
    return pairs + np.array([found - start, 0])


def _demand_connected(ca: np.ndarray, observed: np.ndarray) -> None:
    """FoldlineError when the CA of two neighbours, both observed, are absurdly far apart."""
    distances = np.linalg.norm(np.diff(ca, axis=0), axis=-1)[observed[1:] & observed[:-1]]
    if distances.max(initial=0.0) > _MAX_CA_DISTANCE:
        raise FoldlineError(f"has neighbours {distances.max():.0f} Å apart, over {_MAX_CA_DISTANCE:.0f}: its coordinates are damaged")
