"""The whole network against DeepMind's, case by case: every intermediate result, every output, and the gradient of every parameter."""

from __future__ import annotations

import pytest

from foldline.tests.reference.model_cases import CASES, REFERENCE, arrays, has, settings
from foldline.tests.reference.trace import OF_THE_LOSS, differences, gradient_differences

pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference folder at {REFERENCE} (FOLDLINE_REFERENCE)")

# float32 against float32: both sides round, the reference's own two ways of running differ by up to 1e-5.
RELATIVE = 1e-4  # of an array's largest value
POSITIONS, POSITIONS_RECYCLED = 1e-3, 5e-3  # ångström
GRADIENTS = 1e-3  # of an array's largest value
VANISHING = 1e-7  # of the largest of all: a few are 0 but for rounding (softmax does not see a constant added to its logits)


def test_there_is_something_to_compare() -> None:
    assert CASES


@pytest.mark.parametrize("case", CASES)
def test_intermediates_and_outputs_agree(case: str) -> None:
    found = differences(case)
    stored = len(arrays(case, "intermediates")) + sum(not name.startswith(OF_THE_LOSS) for name in arrays(case, "outputs"))
    assert len(found) == stored, "every array of the case is compared"
    far = {name: d for name, d in found.items() if not d.error <= RELATIVE * max(d.scale, 1e-3)}
    assert not far
    bound = POSITIONS if settings(case)["num_recycle"] == 0 else POSITIONS_RECYCLED
    positions = [d.error for name, d in found.items() if name.endswith(("atom_pos", "_positions"))]
    assert max(positions) <= bound


@pytest.mark.parametrize("case", [case for case in CASES if has(case, "grads_nopae")])
def test_gradients_agree(case: str) -> None:
    total, found = gradient_differences(case)
    assert total == pytest.approx(float(arrays(case, "grads_nopae")["total_loss"]), rel=1e-5)
    largest = max(d.scale for d in found.values())
    far = {name: d for name, d in found.items() if not d.error <= max(GRADIENTS * d.scale, VANISHING * largest)}
    assert not far
