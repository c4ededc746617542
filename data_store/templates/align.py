"""Where the letters of a hit lie in the chain of its structure: databases lag behind the archive, so the two may differ.

In this order: the hit's letters stand in the named chain; in another chain (renamed since); in a chain where X on either side stands for
any residue; else the named chain (or the only one) is aligned with the hit by kalign and must have 90 % identity.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ...errors import FoldlineError
from ..parse.structure import OpenStructure, ParsedChain

_MIN_IDENTITY = 0.9  # of the shorter sequence


@dataclass(frozen=True)
class Placement:
    """``places`` int64 [letters of the hit]: position in ``chain``, -1 where there is none; ``letters`` what stands there."""

    chain: ParsedChain
    places: np.ndarray
    letters: str
    realigned: bool = False


def place_hit(letters: str, chain_name: str, entry: OpenStructure) -> Placement:
    """Find ``letters``, the residues of a hit on chain ``chain_name`` ('' = not known), in ``entry``. FoldlineError: why it has none."""
    sequences = {name: sequence for name in entry.chain_names if (sequence := entry.sequence(name))}
    for name in (chain_name, *sequences):
        if (start := sequences.get(name, "").find(letters)) >= 0:
            return Placement(_chain(entry, name), np.arange(start, start + len(letters)), letters)
    pattern = re.compile("".join("." if letter == "X" else f"[{letter}X]" for letter in letters))
    for name, sequence in sequences.items():
        if match := pattern.search(sequence):
            return Placement(_chain(entry, name), np.arange(match.start(), match.end()), letters)
    if chain_name not in sequences and len(sequences) != 1:
        raise FoldlineError(f"has no protein chain '{chain_name}' (it has {', '.join(sequences) or 'none'})")
    return _realign(letters, _chain(entry, chain_name if chain_name in sequences else next(iter(sequences))))


def _chain(entry: OpenStructure, name: str) -> ParsedChain:
    chain = entry.chain(name)
    assert chain is not None  # it has a sequence
    return chain


def _realign(letters: str, chain: ParsedChain) -> Placement:
    import kalign

    try:
        rows = kalign.align([letters, chain.sequence], seq_type="protein", n_threads=1)
    except (ValueError, RuntimeError) as error:
        raise FoldlineError(f"cannot be aligned with chain {chain.name}: {error}") from None
    hit, target = (np.frombuffer(row.encode(), np.uint8) for row in rows)
    both = (hit != ord("-")) & (target != ord("-"))
    same = int((hit == target)[both].sum())
    shorter = min(len(letters), len(chain.sequence))
    if same < _MIN_IDENTITY * shorter:
        raise FoldlineError(f"has another sequence in chain {chain.name}: {same} of {shorter} residues are the hit's, 90 % are needed")
    places = np.full(len(letters), -1, np.int64)
    places[(np.cumsum(hit != ord("-")) - 1)[both]] = (np.cumsum(target != ord("-")) - 1)[both]
    found = "".join(chain.sequence[place] if place >= 0 else letter for place, letter in zip(places, letters, strict=True))
    return Placement(chain, places, found, realigned=True)
