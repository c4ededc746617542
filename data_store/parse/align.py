"""Global alignment of two one-letter sequences, as a map of positions."""

from __future__ import annotations

import re

import gemmi
import numpy as np


def align(query: str, target: str) -> np.ndarray:
    """int64 [len(query)]: the position in ``target`` that each letter of ``query`` is aligned with, -1 where there is none."""
    result = gemmi.align_string_sequences(list(query), list(target), [])
    to_target = np.full(len(query), -1, np.int64)
    at_query = at_target = 0
    for count, kind in ((int(n), k) for n, k in re.findall(r"(\d+)([MID])", result.cigar_str())):
        if kind == "M":
            to_target[at_query : at_query + count] = np.arange(at_target, at_target + count)
        at_query += count * (kind in "MI")
        at_target += count * (kind in "MD")
    return to_target
