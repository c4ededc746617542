"""Places of a pass's tensors: nothing that is still needed is ever overwritten, and the arena is smaller than all tensors together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldline.data_store.types import FieldSchema
from foldline.export.graph import RECYCLED, border_schema, output_schema
from foldline.export.stages import Stage, stages
from foldline.export.tensorrt.schedule import ALIGNMENT, Schedule, Slot, make_schedule, shared_scratch
from foldline.model.config import model_1_ptm
from foldline.tests.export import cases

FIELD = FieldSchema("float", ("N_res",))


def chain(*parts: tuple[str, str]) -> tuple[Stage, ...]:
    """Stages from "inputs" and "outputs", one letter per tensor."""
    return tuple(
        Stage(f"stage{i}", dict.fromkeys(inputs, FIELD), dict.fromkeys(outputs, FIELD)) for i, (inputs, outputs) in enumerate(parts)
    )


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[Stage, ...], dict[str, int], list[str]]:
    """Random stages in which every stage reads what is there and makes something new."""
    known = [f"in{i}" for i in range(draw(st.integers(1, 4)))]
    built = []
    for number in range(draw(st.integers(1, 6))):
        inputs = draw(st.lists(st.sampled_from(known), min_size=1, max_size=4, unique=True))
        outputs = [f"t{number}_{i}" for i in range(draw(st.integers(1, 3)))]
        built.append(Stage(f"s{number}", dict.fromkeys(inputs, FIELD), dict.fromkeys(outputs, FIELD)))
        known += outputs
    names = {name for stage in built for name in (*stage.inputs, *stage.outputs)}
    sizes = {name: draw(st.integers(1, 5000)) for name in sorted(names)}
    made = [name for stage in built for name in stage.outputs]
    results = draw(st.lists(st.sampled_from(made), max_size=3, unique=True))
    return tuple(built), sizes, results


def simulate(schedule: Schedule, running: tuple[Stage, ...], sizes: dict[str, int], results: list[str]) -> None:
    """Run the stages over real bytes: each tensor is written as its own number, and must hold it whenever it is read."""
    arena = np.zeros(schedule.arena, np.int32)
    number = {name: i + 1 for i, name in enumerate(schedule.slots)}

    def place(name: str) -> np.ndarray:
        return arena[schedule.slots[name].offset : schedule.slots[name].offset + sizes[name]]

    made = {name for stage in running for name in stage.outputs}
    for name in number.keys() - made:
        place(name)[:] = number[name]
    for stage in running:
        for name in stage.outputs:
            place(name)[:] = number[name]
        for name in (*stage.inputs, *stage.outputs):
            assert (place(name) == number[name]).all(), f"{stage.name} finds '{name}' overwritten"
    for name in results:
        assert (place(name) == number[name]).all(), f"the result '{name}' is overwritten"


@given(chains())
def test_no_tensor_is_overwritten_while_it_is_needed(drawn: tuple[tuple[Stage, ...], dict[str, int], list[str]]) -> None:
    running, sizes, results = drawn
    schedule = make_schedule(running, sizes, results)
    simulate(schedule, running, sizes, results)
    assert schedule.arena <= sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes.values())
    assert all(slot.offset % ALIGNMENT == 0 for slot in schedule.slots.values())


def test_places_are_shared_by_tensors_that_never_meet() -> None:
    running = chain(("a", "b"), ("b", "c"), ("c", "d"))
    schedule = make_schedule(running, dict.fromkeys("abcd", ALIGNMENT), ["d"])
    assert schedule.arena == 2 * ALIGNMENT
    assert schedule.slots["a"].offset == schedule.slots["c"].offset


def test_what_goes_from_pass_to_pass_never_moves() -> None:
    running = chain(("p", "a"), ("a", "n"), ("n", "r"))
    schedule = make_schedule(running, {"p": 700, "a": 700, "n": 700, "r": 700}, ["r"], {"p": "n"})
    assert schedule.slots["p"] == schedule.slots["n"] == Slot(schedule.slots["n"].offset, 1024, -1, 3)
    assert not schedule.slots["n"].overlaps(schedule.slots["a"])
    assert not schedule.slots["n"].overlaps(schedule.slots["r"])


@pytest.mark.parametrize(
    ("running", "results", "recycled", "said"),
    [
        (chain(("a", "b"), ("a", "b")), [], {}, "stage 'stage1' makes 'b', which is there already"),
        (chain(("a", "b"), ("b", "a")), [], {}, "makes 'a', which is there already"),
        (chain(("a", "b")), ["c"], {}, "no stage makes the result 'c'"),
        (chain(("p", "n")), [], {"p": "n"}, "stage 'stage0' would overwrite 'p' while it is read"),
        (chain(("p", "n"), ("np", "r")), [], {"p": "n"}, "stage 'stage0' would overwrite 'p'"),
        (chain(("p", "a"), ("a", "n")), [], {"p": "x"}, "'x' cannot take the place of 'p'"),
        (chain(("p", "a"), ("a", "n")), [], {"a": "n"}, "'n' cannot take the place of 'a'"),
        (chain(("p", "a"), ("a", "N")), [], {"p": "N"}, "'N' cannot take the place of 'p'.*differ in size"),
    ],
)
def test_a_chain_that_cannot_be_placed_is_refused(
    running: tuple[Stage, ...], results: list[str], recycled: dict[str, str], said: str
) -> None:
    sizes = {name: 64 if name.islower() else 128 for stage in running for name in (*stage.inputs, *stage.outputs)}
    with pytest.raises(ValueError, match=said):
        make_schedule(running, sizes, results, recycled)


@pytest.mark.parametrize("config", [cases.small(), cases.bare(), model_1_ptm()], ids=["small", "bare", "model_1_ptm"])
def test_a_real_pass_keeps_its_results_and_saves_memory(config: cases.ModelConfig) -> None:
    dims = {"N_res": 384, "N_clust": 512, "N_extra": 5120, "N_templ": 4}
    running = stages(config)
    used = {name for stage in running for name in (*stage.inputs, *stage.outputs)}
    sizes = {
        name: 4 * int(np.prod([d if isinstance(d, int) else dims[d] for d in field.dims]))
        for name, field in border_schema(config).items()
        if name in used
    }
    schedule = make_schedule(running, sizes, list(output_schema(config)), RECYCLED)
    apart = sum(sizes.values())
    assert schedule.arena < 0.8 * apart
    for before, after in RECYCLED.items():
        assert schedule.slots[before] == schedule.slots[after]
    placed = {name: slot for name, slot in schedule.slots.items() if name not in RECYCLED}
    for name, slot in placed.items():
        for other, place in placed.items():
            assert name == other or not (slot.meets(place) and slot.overlaps(place)), (name, other)


def test_scratch_is_the_largest_of_its_users() -> None:
    assert shared_scratch({"embed": 1, "evoformer": 1000, "heads": 999}) == 1024
    assert shared_scratch({}) == 0
