"""Alignment of two sequences: order, identity, and gaps at the ends rather than before a lone residue."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldline.data_store.parse.align import align

SEQUENCES = st.text("ACDEFGHIKLMNPQRSTVWY", min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("query", "target", "expected"),
    [
        ("ACDEFG", "ACDEFG", [0, 1, 2, 3, 4, 5]),
        ("GSHACDEF", "ACDEF", [-1, -1, -1, 0, 1, 2, 3, 4]),
        ("ACDEF", "ACDEFHHF", [0, 1, 2, 3, 4]),  # not the F of the tag
        ("ACDEFHHF", "ACDEF", [0, 1, 2, 3, 4, -1, -1, -1]),
        ("ACDEF", "AHHACDEF", [3, 4, 5, 6, 7]),
        ("ACDEFGKLMN", "ACDEKLMN", [0, 1, 2, 3, -1, -1, 4, 5, 6, 7]),
        ("MCDEF", "ACDEFHHF", [0, 1, 2, 3, 4]),  # the same where the sequences differ elsewhere
        ("ABABABCDCDCD", "ABABABABCDCDCDCD", list(range(2, 14))),
        ("A", "A", [0]),
    ],
)
def test_known_cases(query: str, target: str, expected: list[int]) -> None:
    assert align(query, target).tolist() == expected


@given(SEQUENCES, SEQUENCES)
def test_order_is_kept_and_no_position_used_twice(query: str, target: str) -> None:
    to_target = align(query, target)
    used = to_target[to_target >= 0]
    assert (np.diff(used) > 0).all()
    assert (used < len(target)).all()


@given(SEQUENCES, SEQUENCES, SEQUENCES)
def test_a_piece_of_a_sequence_is_found_whole(head: str, middle: str, tail: str) -> None:
    whole = head + middle + tail
    to_target = align(middle, whole)
    assert [whole[i] for i in to_target] == list(middle)
    assert (np.diff(to_target) == 1).all()
    back = align(whole, middle)
    assert [middle[i] for i in back[back >= 0]] == list(middle)
    assert (np.diff(np.flatnonzero(back >= 0)) == 1).all()
