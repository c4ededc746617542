"""Profiles: buckets by length, which one a chain takes, and what is said when none does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldline.data_store.config import FeatureConfig
from foldline.errors import FoldlineError
from foldline.export.profiles import LENGTHS, Profile, bucket_profiles, choose_profile, limits_of, padded_sizes

FEATURES = FeatureConfig(max_msa_clusters=124, max_extra_msa=1024, max_templates=4)
BUCKETS = bucket_profiles(LENGTHS, FEATURES)


def sizes(n_res: int, clusters: int = 124, extra: int = 1024, templates: int = 4) -> dict[str, int]:
    return {"N_res": n_res, "N_clust": clusters, "N_extra": extra, "N_templ": templates}


@given(st.integers(8, 512), st.integers(1, 124), st.integers(1, 1024), st.integers(1, 4))
def test_every_chain_within_the_limits_has_the_smallest_bucket_that_fits(n_res: int, clusters: int, extra: int, templates: int) -> None:
    wanted = sizes(n_res, clusters, extra, templates)
    profile, padded = choose_profile(BUCKETS, wanted)
    assert profile.name == str(min(length for length in LENGTHS if length >= n_res))
    assert profile.fits(padded)
    for name, size in wanted.items():
        assert size <= padded[name] <= max(size + 7, profile.sizes[name][0])
    assert padded["N_res"] % 8 == 0
    assert padded["N_templ"] == templates


def test_rows_are_not_padded_beyond_what_the_features_make() -> None:
    _, padded = choose_profile(BUCKETS, sizes(100, clusters=121, extra=1000))
    assert padded == {"N_res": 104, "N_clust": 124, "N_extra": 1000, "N_templ": 4}
    assert padded_sizes({"N_clust": 3, "N_other": 5}, {"N_clust": (2, 3)}) == {"N_clust": 3, "N_other": 5}


def test_buckets_leave_no_gap_and_tell_their_limits() -> None:
    assert [profile.sizes["N_res"] for profile in BUCKETS] == [(8, 128, 128), (136, 256, 256), (264, 384, 384), (392, 512, 512)]
    assert limits_of(BUCKETS) == {"N_res": (8, 512), "N_clust": (1, 124), "N_extra": (1, 1024), "N_templ": (1, 4)}
    wide = bucket_profiles((128,), FEATURES, wide=2048)
    assert wide[1].sizes["N_res"] == (136, 1096, 2048)
    assert choose_profile(wide, sizes(128))[0].name == "128"
    assert choose_profile(wide, sizes(129))[0].name == "wide-2048"


def test_networks_with_a_single_row_have_profiles_too() -> None:
    (profile,) = bucket_profiles((64,), FeatureConfig(max_msa_clusters=1, max_extra_msa=3, max_templates=0))
    assert profile.sizes == {"N_res": (8, 64, 64), "N_clust": (1, 1, 1), "N_extra": (3, 3, 3), "N_templ": (1, 1, 1)}
    assert choose_profile((profile,), sizes(9, 1, 1, 1))[1] == {"N_res": 16, "N_clust": 1, "N_extra": 3, "N_templ": 1}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (sizes(513), r"N_res = 513 is outside 8\.\.512.*128, 256, 384, 512.*--profiles"),
        (sizes(600, clusters=125), r"N_res = 600 is outside 8\.\.512; N_clust = 125 is outside 1\.\.124"),
        (sizes(64, extra=1025), r"N_extra = 1025 is outside 1\.\.1024"),
        (sizes(64, templates=5), r"N_templ = 5 is outside 1\.\.4"),
    ],
)
def test_what_no_profile_takes_is_refused_with_the_limits(wanted: dict[str, int], said: str) -> None:
    with pytest.raises(FoldlineError, match=said):
        choose_profile(BUCKETS, wanted)


def test_profiles_that_only_fit_apart_are_named() -> None:
    """Each size is within some profile, but no profile takes both."""
    short = Profile("short", {"N_res": (8, 64, 64), "N_clust": (8, 512, 512)})
    long = Profile("long", {"N_res": (72, 128, 128), "N_clust": (8, 64, 64)})
    with pytest.raises(FoldlineError, match=r"'N_res': 128, 'N_clust': 512.* fits none.*short, long"):
        choose_profile((short, long), {"N_res": 128, "N_clust": 512})


@pytest.mark.parametrize(
    ("lengths", "wide", "said"),
    [
        ((100,), 0, "profile length 100 is no positive multiple of 8; take 104"),
        ((0,), 0, "profile length 0 .*take 8"),
        ((256, 128), 0, "do not rise"),
        ((128, 128), 0, "do not rise"),
        ((128, 256), 256, "do not rise"),
        ((), 0, "do not rise"),
    ],
)
def test_lengths_that_make_no_buckets_are_refused(lengths: tuple[int, ...], wide: int, said: str) -> None:
    with pytest.raises(FoldlineError, match=said):
        bucket_profiles(lengths, FEATURES, wide)


def test_profiles_survive_json() -> None:
    assert tuple(Profile.from_dict(profile.to_dict()) for profile in BUCKETS) == BUCKETS


def test_shapes_follow_the_dimensions() -> None:
    assert BUCKETS[1].shapes(("N_clust", "N_res", 49)) == ((8, 136, 49), (124, 256, 49), (124, 256, 49))
    assert BUCKETS[1].limits["N_res"] == (136, 256)
