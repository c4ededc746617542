"""Growth over nodes: laws of the arithmetic, on a workload that is easily worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from foldline.cluster.plan import GIB, TRAFFIC, Device, Sharding
from foldline.cluster.scaling import COLLECTIVE, HOST_COPY, Cluster, Stack, Workload, calibrate, efficiency, exchanges, grow, smallest_group
from foldline.errors import FoldlineError

DEVICE = Device("made", 80 * GIB, {"bfloat16": 1e15, "float32": 1e14}, 1e12, 4e11, launch=1e-6)
CALL = (6 * 10**12, "bfloat16", 8)  # 10 ms at 60 % of the peak
STACK = Stack("trunk", 10, ((CALL, 1),), ((CALL, 2),), gathered=8e6, swapped=16e6, collectives=10)
WORK = Workload(
    batch=64,
    samples=64_000,
    cycles=2.5,
    stacks=(STACK,),
    forward=((CALL, 1),),
    backward=((CALL, 2),),
    recomputed=True,
    flops=5e13,
    parameters=400_000_000,
    sharding=Sharding(1, 1, True, 1, 1, False, False),
    activations=10.0 * GIB,
    features=1e8,
    stored=2e6,
    workers=2,
    open_files=17,
)
CLUSTER = Cluster(DEVICE)


def test_one_gpu_takes_the_samples_one_after_the_other() -> None:
    point = grow(WORK, CLUSTER, 1)
    assert (point.dap, point.passes) == (1, 64)
    assert point.seconds["forward"] == pytest.approx(64 * 2.5 * 11 * 0.010)
    assert point.seconds["backward"] == pytest.approx(64 * 11 * 0.020)
    assert point.seconds["axial"] == point.seconds["gradients"] == 0
    assert point.samples_per_second == pytest.approx(64 / point.step)
    assert point.utilisation == pytest.approx(5e13 * point.samples_per_second / 1e15)
    assert point.days == pytest.approx(64_000 / point.samples_per_second / 86_400, rel=1e-3)


def test_data_parallelism_shares_samples_and_keeps_the_work() -> None:
    one, many = grow(WORK, CLUSTER, 1), grow(WORK, CLUSTER, 64)
    assert (many.dap, many.passes) == (1, 1)
    assert many.seconds["forward"] * 64 == pytest.approx(one.seconds["forward"])
    shares = efficiency([one, many])
    assert shares[0] == 1
    assert 0.9 < shares[1] < 1
    assert many.store_bandwidth == pytest.approx(many.samples_per_second * 2e6)
    assert (one.open_files, many.open_files) == (2 * 17, 8 * 2 * 17), "of one node"


def test_axial_parallelism_shares_blocks_alone() -> None:
    """The block's part falls with the group, what is outside the blocks does not, and exchanges are added."""
    whole, shared = grow(WORK, CLUSTER, 64), grow(WORK, CLUSTER, 512)
    assert shared.dap == 8
    assert whole.seconds["forward"] == pytest.approx(2.5 * (10 + 1) * 0.010)
    assert shared.seconds["forward"] == pytest.approx(2.5 * (10 / 8 + 1) * 0.010)
    assert shared.seconds["axial"] > 0
    # Activations with their fragments, and five shares: master copy, two moments, average, clipped gradients.
    assert whole.memory - shared.memory == pytest.approx(10 * GIB * 7 / 8 * 1.05 + 4e8 * 5 * (1 / 64 - 1 / 512))
    bytes_only = replace(WORK, stacks=(replace(STACK, forward=(((0, "", 7 * 10**9), 1),)),), forward=())
    assert grow(bytes_only, CLUSTER, 512).seconds["forward"] == pytest.approx(2.5 * 10 * 0.010 / 8)  # 70 % of the bandwidth
    assert efficiency([whole, shared])[1] < 1


def test_exchanges_by_hand() -> None:
    moved, seconds = exchanges(WORK, 4, 4e11)
    times, once = 2.5 + 2, 10 * (8e6 + 16e6 / 4) * 3 / 4
    assert moved == pytest.approx(times * once)
    assert seconds == pytest.approx(times * (once / (TRAFFIC * 4e11) + 10 * 10 * COLLECTIVE))
    assert exchanges(replace(WORK, recomputed=False), 4, 4e11)[0] == pytest.approx(3.5 * once)
    assert exchanges(WORK, 1, 4e11) == (0.0, 0.0)


def test_groups_beyond_a_node_go_over_the_network() -> None:
    within = grow(WORK, replace(CLUSTER, per_node=16), 64 * 16)
    beyond = grow(WORK, replace(CLUSTER, per_node=8), 64 * 16)
    assert beyond.seconds["axial"] > 2 * within.seconds["axial"]


def test_launches_bound_what_sharing_can_save() -> None:
    small = replace(WORK, stacks=(replace(STACK, forward=(((1000, "bfloat16", 8), 1000),)),))
    assert grow(small, CLUSTER, 512).seconds["forward"] > 2.5 * 10 * 1000 * 1e-6


@pytest.mark.parametrize(("gpus", "dap"), [(1, 1), (64, 1), (65, 2), (128, 2), (192, 4), (512, 8), (2048, 32)])
def test_smallest_group(gpus: int, dap: int) -> None:
    assert smallest_group(64, gpus) == dap


@pytest.mark.parametrize(("gpus", "dap"), [(24, 0), (96, 0), (64, 3)])
def test_a_batch_that_cannot_be_shared_is_an_error(gpus: int, dap: int) -> None:
    with pytest.raises(FoldlineError, match=f"{gpus} GPUs in groups of .* cannot share 64 samples"):
        grow(WORK, CLUSTER, gpus, dap)


def test_interval_minimises_what_is_lost() -> None:
    """Young and Daly: no other interval loses less, where neither writing nor the step bounds it."""
    fast = replace(CLUSTER, write=1e15)
    point = grow(replace(WORK, batch=1), fast, 1)
    holds, every = 4 * 4e8 / HOST_COPY, point.failure_every
    assert point.checkpoint_every == pytest.approx(math.sqrt(2 * holds * every))

    def lost(interval: float) -> float:
        return holds / interval + (interval / 2 + fast.restart) / every

    assert point.lost == pytest.approx(lost(point.checkpoint_every))
    assert all(lost(point.checkpoint_every * other) > point.lost for other in (0.5, 0.9, 1.1, 2))


def test_failures_come_as_often_as_there_are_gpus() -> None:
    few, many = grow(WORK, CLUSTER, 8), grow(WORK, CLUSTER, 64)
    assert few.failure_every == pytest.approx(8 * many.failure_every)
    assert grow(WORK, replace(CLUSTER, write=1.0), 64).checkpoint_every == 6 * 4e8  # no faster than it is written
    assert many.lost > few.lost


def test_a_run_that_fails_all_the_time_takes_longer() -> None:
    never, always = grow(WORK, replace(CLUSTER, hours_per_failure=1e12), 64), grow(WORK, replace(CLUSTER, hours_per_failure=1e-3), 64)
    assert always.lost == 0.99
    assert always.days == pytest.approx(100 * never.days, rel=1e-3)
    assert always.gpu_hours == pytest.approx(always.days * 24 * 64)


def test_calibration_makes_one_sample_take_what_was_measured() -> None:
    fitted = calibrate(WORK, CLUSTER, 1.5)
    assert grow(replace(WORK, batch=1), fitted, 1).step == pytest.approx(1.5)
    assert fitted.factor == pytest.approx(1.5 / 0.495, rel=0.02)
    with pytest.raises(FoldlineError, match="--measured 1e-09 s is less than the optimizer alone takes"):
        calibrate(WORK, CLUSTER, 1e-9)
