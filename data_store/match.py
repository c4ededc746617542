"""Laying a chain's coordinates onto the query of its alignment."""

from __future__ import annotations

import numpy as np

from ..errors import FoldlineError
from .parse.align import align
from .parse.residue import BACKBONE_CB
from .parse.structure import ParsedChain
from .residues import ATOM37_MASK, N_ATOM37, encode_sequence

_MIN_IDENTITY = 0.9
# An unrelated sequence can be aligned with few but identical letters; so at least this part of the shorter one must be aligned.
_MIN_ALIGNED = 0.5


def match_query(chain: ParsedChain, query: str) -> ParsedChain:
    """``chain`` with ``query`` as its sequence: unchanged when they are equal, else its coordinates mapped by alignment and a note added.

    A residue of another type than the query's keeps backbone and CB alone. Raises FoldlineError when fewer than 90 % of the aligned
    observed residues are identical, or fewer than half of the residues are aligned.
    """
    if chain.sequence == query:
        return chain
    observed = np.flatnonzero(chain.mask.any(axis=-1))
    partner = align(query, chain.sequence)
    columns = np.flatnonzero(np.isin(partner, observed))
    wanted, found = encode_sequence(query)[columns], encode_sequence(chain.sequence)[partner[columns]]
    same = int((wanted == found).sum())
    enough = _MIN_ALIGNED * min(len(query), len(observed))
    if same < _MIN_IDENTITY * len(columns) or len(columns) < max(enough, 1):
        raise FoldlineError(
            f"the alignment's query ({len(query)} residues) is not the sequence of chain {chain.name} ({len(chain.sequence)} residues): "
            f"{same} of {len(columns)} aligned observed residues are identical, {_MIN_IDENTITY:.0%} are needed"
        )
    positions = np.zeros((len(query), N_ATOM37, 3), np.float32)
    mask = np.zeros((len(query), N_ATOM37), np.uint8)
    positions[columns], mask[columns] = chain.positions[partner[columns]], chain.mask[partner[columns]]
    b_factors = np.zeros(len(query), np.float32)
    if len(chain.b_factors):
        b_factors[columns] = chain.b_factors[partner[columns]]
    changed = columns[wanted != found]
    kept = np.isin(np.arange(N_ATOM37), BACKBONE_CB) & (ATOM37_MASK[encode_sequence(query)[changed]] > 0)
    mask[changed] *= kept.astype(np.uint8)
    positions[mask == 0] = 0.0
    note = (
        f"the alignment's query ({len(query)} residues) differs from the chain's sequence ({len(chain.sequence)}): coordinates mapped by "
        f"alignment, {same} of {len(columns)} aligned observed residues identical, {len(observed) - len(columns)} left out"
    )
    return ParsedChain(chain.name, query, positions, mask, (*chain.notes, note), b_factors)
