"""Which residues a training sample keeps: a window of the sequence, or a neighbourhood in space."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldline.data_store.config import FeatureConfig
from foldline.data_store.features.crop import crop_indices, crop_window
from foldline.data_store.residues import ATOM_INDEX
from foldline.data_store.types import ChainRecord
from foldline.errors import FoldlineError

from .store_cases import random_record

CA = ATOM_INDEX["CA"]


def line(length: int, unresolved: tuple[int, ...] = ()) -> ChainRecord:
    """C-alphas 3.8 Å apart on a line; those of ``unresolved`` missing, at the origin as in a store."""
    record = random_record(np.random.default_rng(0), "line", length)
    positions = np.zeros((length, 37, 3), np.float32)
    positions[:, :, 0] = 100.0 + 3.8 * np.arange(length)[:, None]
    mask = np.ones((length, 37), np.uint8)
    positions[list(unresolved)] = mask[list(unresolved)] = 0
    return replace(record, positions=positions, mask=mask)


@given(length=st.integers(1, 60), size=st.integers(1, 70), mode=st.sampled_from(["contiguous", "spatial"]), seed=st.integers(0, 999))
@settings(max_examples=60)
def test_a_crop_is_a_rising_list_of_places_as_long_as_it_may_be(length: int, size: int, mode: str, seed: int) -> None:
    record = random_record(np.random.default_rng(seed), "c", length)
    chosen = crop_indices(record, size, mode, True, np.random.default_rng(seed))
    assert chosen.dtype == np.int64
    assert len(chosen) == min(length, size)
    assert (np.diff(chosen) > 0).all()
    assert 0 <= chosen[0] <= chosen[-1] < length


@pytest.mark.parametrize("clamped", [True, False])
def test_contiguous_is_the_window_from_the_same_draws(deep: ChainRecord, clamped: bool) -> None:
    for seed in range(30):
        ours, theirs = (np.random.default_rng(seed) for _ in range(2))
        window = crop_window(len(deep.sequence), 20, clamped, theirs)
        np.testing.assert_array_equal(crop_indices(deep, 20, "contiguous", clamped, ours), np.arange(window.start, window.stop))
        assert ours.random() == theirs.random()


def test_spatial_takes_the_nearest_to_a_resolved_centre(records: list[ChainRecord]) -> None:
    for record in records:
        ca, resolved = record.positions[:, CA], np.flatnonzero(record.mask[:, CA])
        seen = set()
        for seed in range(20):
            chosen = crop_indices(record, 16, "spatial", True, np.random.default_rng(seed))
            spans = [np.linalg.norm(ca[resolved] - ca[c], axis=1) for c in resolved]
            balls = [frozenset(resolved[np.argsort(d, kind="stable")[:16]].tolist()) for d in spans]
            assert len(resolved) < len(ca) or frozenset(chosen.tolist()) in balls
            seen.add(tuple(chosen))
        assert len(seen) > 5  # many centres
        assert any((np.diff(c) > 1).any() for c in seen)  # and not windows


def test_spatial_centres_are_equally_likely() -> None:
    record = line(12, unresolved=(3, 4))
    draws = [int(crop_indices(record, 1, "spatial", True, np.random.default_rng(seed))[0]) for seed in range(3000)]
    counts = np.bincount(draws, minlength=12)
    assert counts[3] == counts[4] == 0
    np.testing.assert_allclose(np.delete(counts, [3, 4]) / 3000, 0.1, atol=0.02)


def test_an_unresolved_loop_comes_with_its_ends() -> None:
    full, gapped = line(30), line(30, unresolved=(10, 11, 12, 13))
    for seed in range(200):
        chosen = crop_indices(gapped, 9, "spatial", True, np.random.default_rng(seed))
        assert (np.diff(chosen) == 1).all()  # on a line a neighbourhood is a window, with the loop in place
    whole = {tuple(crop_indices(full, 9, "spatial", True, np.random.default_rng(s))) for s in range(200)}
    assert {tuple(crop_indices(gapped, 9, "spatial", True, np.random.default_rng(s))) for s in range(200)} <= whole


def test_unresolved_ends_come_nearest_first() -> None:
    record = line(20, unresolved=tuple(range(8)))
    for seed in range(100):
        chosen = crop_indices(record, 5, "spatial", True, np.random.default_rng(seed))
        assert (np.diff(chosen) == 1).all()


def test_a_chain_without_coordinates_gets_a_window() -> None:
    record = line(30, unresolved=tuple(range(30)))
    spatial, window = (crop_indices(record, 9, mode, False, np.random.default_rng(5)) for mode in ("spatial", "contiguous"))
    np.testing.assert_array_equal(spatial, window)


def test_an_unknown_mode_names_the_nearest() -> None:
    with pytest.raises(FoldlineError, match=r"features.crop_mode = spatal is not known; did you mean 'spatial'\?"):
        FeatureConfig(crop_mode="spatal")
