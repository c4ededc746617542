"""Cropping to a window or a neighbourhood of residues (AF2 supplement 1.2.8, AF2-Multimer 7.2)."""

from __future__ import annotations

import numpy as np

from ..residues import ATOM_INDEX
from ..types import ChainRecord

_CA = ATOM_INDEX["CA"]


def crop_indices(record: ChainRecord, size: int, mode: str, clamped: bool, rng: np.random.Generator) -> np.ndarray:
    """The residues of a training sample: int64 [min(size, N_res)], rising positions in the chain (0..N_res - 1), none twice.

    ``mode`` "contiguous" is AF2's window (supplement 1.2.8, see ``crop_window``). "spatial" takes the residues nearest in space to a random
    one: AF2-Multimer's spatial cropping (its section 7.2.2) for a single chain, so that any resolved residue may be the centre. A spatial
    crop may fall into several pieces; ``record.residue_index`` at these positions still tells how far apart they are in the sequence.
    """
    length = len(record.sequence)
    if mode == "spatial" and length > size:
        resolved = np.flatnonzero(record.mask[:, _CA])
        if len(resolved):  # without a structure there is no neighbourhood, only a window
            return _neighbourhood(record.positions[:, _CA], resolved, int(rng.choice(resolved)), size)
    window = crop_window(length, size, clamped, rng)
    return np.arange(window.start, window.stop)


def _neighbourhood(ca: np.ndarray, resolved: np.ndarray, centre: int, size: int) -> np.ndarray:
    """The ``size`` residues whose C-alpha ``ca`` [N_res, 3] lie nearest to that of ``centre``; of equals the nearer in the sequence.

    An unresolved residue counts as lying on the line between its resolved neighbours in the sequence (beyond the last one: there), so a
    missing loop comes with its ends and the network still learns what is not resolved.
    """
    places = np.arange(len(ca))
    filled = np.stack([np.interp(places, resolved, ca[resolved, axis]) for axis in range(3)], axis=1)
    distances = np.square(filled - filled[centre]).sum(axis=1)
    return np.sort(np.lexsort((np.abs(places - centre), distances))[:size])


def crop_window(length: int, size: int, clamped: bool, rng: np.random.Generator) -> slice:
    """The residues of a training sample: a window of ``size``, or all when the chain is not longer.

    With the clamped loss every start is equally likely; without it starts near the N terminus are preferred, as in AF2.
    """
    room = max(0, length - size)
    last = room if clamped else room - int(rng.integers(0, room + 1))
    start = int(rng.integers(0, last + 1))
    return slice(start, min(start + size, length))
