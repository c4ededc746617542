"""What a loader without a store does for every sample before any feature is made: read alignments from A3M text. Two ways.

``as_openfold`` does the work step by step as OpenFold's data pipeline does, in our own words; ``in_one_pass`` is the least that plain
Python can do.
"""

from __future__ import annotations

import string
from typing import NamedTuple

import numpy as np

from foldline.data_store.residues import GAP, RESTYPE_INDEX, UNKNOWN

_CODES = {**RESTYPE_INDEX, "-": GAP, "B": RESTYPE_INDEX["D"], "Z": RESTYPE_INDEX["E"], "U": RESTYPE_INDEX["C"], "J": UNKNOWN, "O": UNKNOWN}
_NO_INSERTIONS = str.maketrans("", "", string.ascii_lowercase)


class TextMsa(NamedTuple):
    """``rows`` and ``deletions`` int32 [depth, N_res]."""

    rows: np.ndarray
    deletions: np.ndarray


def as_openfold(text: str) -> TextMsa:
    """Text -> sequences -> deletions letter by letter -> aligned strings -> rows not seen before -> numbers letter by letter -> arrays."""
    sequences: list[str] = []
    for line in text.splitlines():
        line = line.strip()
        if line.startswith(">"):
            sequences.append("")
        elif line:
            sequences[-1] += line
    counted = []
    for sequence in sequences:
        counts, waiting = [], 0
        for letter in sequence:
            if letter.islower():
                waiting += 1
            else:
                counts.append(waiting)
                waiting = 0
        counted.append(counts)
    aligned = [sequence.translate(_NO_INSERTIONS) for sequence in sequences]
    seen: set[str] = set()
    rows, deletions = [], []
    for sequence, counts in zip(aligned, counted, strict=True):
        if sequence not in seen:
            seen.add(sequence)
            rows.append([_CODES[letter] for letter in sequence])
            deletions.append(counts)
    return TextMsa(np.array(rows, np.int32), np.array(deletions, np.int32))


def in_one_pass(text: str) -> TextMsa:
    """Letters and deletions in one loop, no row compared with another."""
    rows, all_deletions = [], []
    for block in text.split(">")[1:]:
        row, deletions, count = [], [], 0
        for letter in block.partition("\n")[2].replace("\n", ""):
            if letter.islower():
                count += 1
            else:
                row.append(_CODES[letter])
                deletions.append(count)
                count = 0
        rows.append(row)
        all_deletions.append(deletions)
    return TextMsa(np.array(rows, np.int32), np.array(all_deletions, np.int32))
