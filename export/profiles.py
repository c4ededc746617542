"""Sizes an engine is built for, by dimension: smallest, typical, largest. Buckets of length, and which of them a chain takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..data_store.config import FeatureConfig
from ..errors import FoldlineError

Dims = Sequence[str | int]
LENGTHS = (128, 256, 384, 512)  # of the usual buckets, residues
# What sizes are rounded up to: half-precision matrix units work on eights. Masks are zero on what is added.
MULTIPLES = {"N_res": 8, "N_clust": 8, "N_extra": 8}


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

    def fits(self, sizes: Mapping[str, int]) -> bool:
        """Whether all of ``sizes`` lie within the limits; a network without templates has no N_templ."""
        return all(low <= sizes[name] <= high for name, (low, high) in self.limits.items() if name in sizes)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"name": self.name, "sizes": {dim: list(values) for dim, values in self.sizes.items()}}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Profile:
        """Back from ``to_dict``."""
        return cls(str(saved["name"]), {dim: (int(low), int(mid), int(high)) for dim, (low, mid, high) in saved["sizes"].items()})


def bucket_profiles(lengths: Sequence[int], features: FeatureConfig, wide: int = 0) -> tuple[Profile, ...]:
    """One profile for each length, from just above the one before; with ``wide`` one more up to that length, for what fits none of them.

    Rows go from one multiple up to what the features make, and engines are tuned for the largest of everything. Raises FoldlineError for
    lengths that do not rise or are no multiples of 8.
    """
    step = MULTIPLES["N_res"]
    steps = [*lengths, wide] if wide else list(lengths)
    for length in steps:
        if length < step or length % step:
            raise FoldlineError(f"profile length {length} is no positive multiple of {step}; take {max(step, round_up(length, step))}")
    if not lengths or any(low >= high for low, high in pairwise(steps)):
        raise FoldlineError(f"profile lengths {steps} do not rise; give each length once, shortest first, the wide one last")
    rows = {
        "N_clust": _rows("N_clust", features.max_msa_clusters),
        "N_extra": _rows("N_extra", features.max_extra_msa),
        "N_templ": (1, max(features.max_templates, 1), max(features.max_templates, 1)),
    }
    starts = [step, *(length + step for length in lengths)]
    profiles = [Profile(str(high), {"N_res": (low, high, high), **rows}) for low, high in zip(starts, lengths, strict=False)]
    if wide:
        typical = round_up((starts[-1] + wide) // 2, step)
        profiles.append(Profile(f"wide-{wide}", {"N_res": (starts[-1], min(typical, wide), wide), **rows}))
    return tuple(profiles)


def padded_sizes(sizes: Mapping[str, int], limits: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """``sizes`` rounded up to ``MULTIPLES`` and to the smallest of ``limits``, but not beyond the largest that was within the limits."""
    padded = {}
    for name, size in sizes.items():
        low, high = limits.get(name, (size, size))
        padded[name] = max(size, low, min(round_up(size, MULTIPLES.get(name, 1)), high))
    return padded


def limits_of(profiles: Sequence[Profile]) -> dict[str, tuple[int, int]]:
    """Dimension name -> (smallest, largest) size over all profiles; rows go down to 1, because engines pad them."""
    limits = {dim: (min(p.sizes[dim][0] for p in profiles), max(p.sizes[dim][2] for p in profiles)) for dim in profiles[0].sizes}
    return {dim: (low if dim == "N_res" else 1, high) for dim, (low, high) in limits.items()}


def choose_profile(profiles: Sequence[Profile], sizes: Mapping[str, int]) -> tuple[Profile, dict[str, int]]:
    """The shortest profile that takes ``sizes``, and the sizes to pad to. Raises FoldlineError that names the limits."""
    for profile in sorted(profiles, key=lambda profile: profile.sizes["N_res"][2]):
        padded = padded_sizes(sizes, profile.limits)
        if profile.fits(padded):
            return profile, padded
    limits = limits_of(profiles)
    outside = [
        f"{name} = {size} is outside {limits[name][0]}..{limits[name][1]}" for name, size in sizes.items() if _beyond(size, limits, name)
    ]
    built = ", ".join(profile.name for profile in profiles)
    what = "; ".join(outside) or f"{dict(sizes)} fits none of them"
    raise FoldlineError(
        f"{what}: the engine was built for the profiles {built}; build one with a longer profile (foldline engine build --profiles), "
        "or fold with an engine that takes any size"
    )


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple that is at least ``size``."""
    return -(-size // multiple) * multiple


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


def _rows(name: str, maximum: int) -> tuple[int, int, int]:
    return (min(MULTIPLES[name], maximum), maximum, maximum)


def _beyond(size: int, limits: Mapping[str, tuple[int, int]], name: str) -> bool:
    low, high = limits.get(name, (size, size))
    return not low <= size <= high
