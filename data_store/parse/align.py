"""Global alignment of two one-letter sequences, as a map of positions."""

from __future__ import annotations

import re

import gemmi
import numpy as np


def align(query: str, target: str) -> np.ndarray:
    """int64 [len(query)]: the position in ``target`` that each letter of ``query`` is aligned with, -1 where there is none.

    A sequence that lies whole in the other is aligned in one piece. Of two equal alignments the one with the gap at an end is taken: a
    missing or added tail is commoner than a lone residue behind a gap.
    """
    to_target = np.full(len(query), -1, np.int64)
    if (start := target.find(query)) >= 0:
        return np.arange(start, start + len(query))
    if (start := query.find(target)) >= 0:
        to_target[start : start + len(target)] = np.arange(len(target))
        return to_target
    result = gemmi.align_string_sequences(list(query), list(target), [])
    pairs, place = [np.zeros((0, 2), np.int64)], np.zeros(2, np.int64)
    for count, kind in ((int(n), k) for n, k in re.findall(r"(\d+)([MID])", result.cigar_str())):
        if kind == "M":
            pairs.append(place + np.arange(count)[:, None])
        place = place + count * np.array([kind in "MI", kind in "MD"])
    letters = (np.frombuffer(query.encode(), np.uint8), np.frombuffer(target.encode(), np.uint8))
    aligned = _close_last_gaps(np.concatenate(pairs), *letters)
    last = np.array([len(query), len(target)]) - 1
    aligned = last - _close_last_gaps((last - aligned)[::-1], letters[0][::-1], letters[1][::-1])
    to_target[aligned[:, 0]] = aligned[:, 1]
    return to_target


def _close_last_gaps(pairs: np.ndarray, query: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Move the last run of ``pairs`` [n, 2] up to the run before it while that loses no identity."""
    pairs = pairs.copy()
    while True:
        breaks = np.flatnonzero((np.diff(pairs, axis=0) != 1).any(axis=1))
        if len(breaks) == 0:
            return pairs
        run = pairs[breaks[-1] + 1 :]
        moved = pairs[breaks[-1]] + 1 + np.arange(len(run))[:, None]
        if (query[moved[:, 0]] == target[moved[:, 1]]).sum() < (query[run[:, 0]] == target[run[:, 1]]).sum():
            return pairs
        pairs[breaks[-1] + 1 :] = moved
