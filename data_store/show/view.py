"""Everything that is shown of a chain, computed once for the text and the picture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..types import ChainRecord
from .alignment import Alignment, read_alignment
from .coevolution import coevolution
from .conservation import conservation, coverage
from .contacts import Pair, contact_rate, distance_map, precision, top_pairs
from .secondary import secondary_structure

FRACTIONS = {"L/5": 5, "L/2": 2, "L": 1}  # how many pairs precision is given for


@dataclass(frozen=True)
class ChainView:
    """A chain and what follows from it; ``record`` is all that is given, the rest is computed when asked for."""

    record: ChainRecord

    @property
    def length(self) -> int:
        return len(self.record.sequence)

    @cached_property
    def alignment(self) -> Alignment:
        return read_alignment(self.record.msas)

    @property
    def has_homologs(self) -> bool:
        """False for a query alone: it shows neither conservation nor co-evolution."""
        return len(self.alignment.rows) > 1

    @property
    def has_structure(self) -> bool:
        return bool(self.record.mask.any())

    @cached_property
    def coverage(self) -> np.ndarray:
        """[N_res] 0..1: the share of rows with a residue in a column."""
        return coverage(self.alignment.rows)

    @cached_property
    def conservation(self) -> np.ndarray:
        """[N_res] 0..1."""
        return conservation(self.alignment.rows, self.alignment.weights)

    @cached_property
    def secondary(self) -> str:
        """'H', 'E' or '-' for each residue."""
        return secondary_structure(self.record)

    @cached_property
    def distances(self) -> np.ndarray:
        """[N_res, N_res] Å between Cβ atoms, nan where unknown."""
        return distance_map(self.record)

    @cached_property
    def _coevolution(self) -> tuple[np.ndarray, int]:
        return coevolution(self.alignment)

    @property
    def scores(self) -> np.ndarray:
        """[N_res, N_res] co-evolution of each pair of positions."""
        return self._coevolution[0]

    @property
    def rows_used(self) -> int:
        """Rows from which ``scores`` were computed."""
        return self._coevolution[1]

    @cached_property
    def identities(self) -> np.ndarray:
        """[N] 0..1: the share of a row's residues that equal the query's."""
        rows = self.alignment.rows
        aligned = rows < 20
        return (aligned & (rows == rows[0])).sum(1) / np.maximum(aligned.sum(1), 1)

    def pairs(self, count: int) -> list[Pair]:
        """The strongest co-evolving pairs, none without homologs."""
        return top_pairs(self.scores, self.distances, count) if self.has_homologs else []

    def precisions(self, separation: int) -> dict[str, float]:
        """Precision of the strongest L/5, L/2 and L pairs at least ``separation`` apart; nan without structure."""
        return {name: precision(self.scores, self.distances, max(1, self.length // part), separation) for name, part in FRACTIONS.items()}

    def contact_rate(self, separation: int) -> float:
        return contact_rate(self.distances, separation)
