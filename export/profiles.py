"""Sizes an engine is built for: dimension name -> smallest, typical and largest value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Dims = Sequence[str | int]


@dataclass(frozen=True)
class Profile:
    """One optimisation profile. ``sizes`` maps a dimension's name (N_res, N_clust, ...) to (minimum, typical, maximum)."""

    name: str
    sizes: Mapping[str, tuple[int, int, int]]

    def shapes(self, dims: Dims) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The minimum, typical and maximum shape of a tensor with these dimensions (names or fixed sizes)."""
        low, typical, high = (tuple(d if isinstance(d, int) else self.sizes[d][which] for d in dims) for which in range(3))
        return low, typical, high

    @property
    def limits(self) -> dict[str, tuple[int, int]]:
        """Dimension name -> (smallest, largest) value that fits."""
        return {name: (low, high) for name, (low, _, high) in self.sizes.items()}


def wide_profile(*, max_residues: int, typical_residues: int, max_clusters: int, max_extra: int, max_templates: int) -> Profile:
    """One profile for every length up to ``max_residues``.

    At least four rows and residues: engines reject the empty slices that a single MSA row would make. Shorter inputs are padded.
    """

    def rows(maximum: int) -> tuple[int, int, int]:
        return (min(4, max(maximum, 1)), max(maximum, 1), max(maximum, 1))

    residues = (4, min(typical_residues, max_residues), max_residues)
    templates = (1, max(max_templates, 1), max(max_templates, 1))
    return Profile(
        f"wide-{max_residues}", {"N_res": residues, "N_clust": rows(max_clusters), "N_extra": rows(max_extra), "N_templ": templates}
    )
