"""The planner's arithmetic."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from foldline.cluster.plan import GPUS, LAUNCH, PRODUCTS, TRAFFIC, Sharding, known_device, longest, seconds, state_bytes, working_bytes

ALONE = Sharding(world=1, stage=0, by_sample=False, samples=1, bucket=1000, overlapped=False, offloaded=False)


def test_each_kernel_takes_its_slowest_part() -> None:
    gpu = GPUS["a100-80"]
    product, traffic, launch = (10**13, "bfloat16", 8), (0, "", 10**10), (0, "", 8)
    assert seconds([(product, 1)], gpu) == pytest.approx(1e13 / (PRODUCTS * 312e12))
    assert seconds([((10**13, "float32", 8), 2)], gpu) == pytest.approx(2e13 / (PRODUCTS * 19.5e12))
    assert seconds([(traffic, 3)], gpu) == pytest.approx(3e10 / (TRAFFIC * 2039e9))
    assert seconds([(launch, 5)], gpu) == pytest.approx(5 * LAUNCH)


# Times the weights, without optimizer gradients: what a census of DeepSpeed's tensors at world 4 gives, the average left out.
@pytest.mark.parametrize(("stage", "multiple"), [(0, 3.0), (1, 1.75), (2, 1.75), (3, 1.0)])
def test_state_is_sharded_as_deepspeed_does(stage: int, multiple: float) -> None:
    state = state_bytes(1200, replace(ALONE, world=4, stage=stage))
    assert sum(state.values()) - state["ema"] == multiple * 1200
    assert state["ema"] == (300 if stage else 1200)


def test_offloading_keeps_the_weights_alone_on_the_device() -> None:
    assert sum(state_bytes(1200, replace(ALONE, world=4, stage=2, offloaded=True)).values()) == 1200


def test_clipping_by_sample_keeps_whole_gradients() -> None:
    sharded = replace(ALONE, world=4, stage=2)
    assert working_bytes(1200, sharded)["gradients"] == 300
    assert working_bytes(1200, replace(sharded, by_sample=True))["gradients"] == 1500
    assert working_bytes(1200, replace(sharded, by_sample=True, samples=2))["gradients"] == 2700
    assert working_bytes(1200, replace(sharded, overlapped=True))["buckets"] == 8000


def test_the_longest_crop_is_the_last_that_fits() -> None:
    def cubic(n: int) -> float:
        return 2.0 * n**3 + 5.0 * n**2 + 7.0 * n

    crops = (64, 128, 256)
    found = longest(crops, [cubic(n) for n in crops], 1000.0, 1000.0 + cubic(200))
    assert found == 200
    assert longest(crops, [cubic(n) for n in crops], 1000.0, 999.0) == 0


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-80"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA A10G", None),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_devices_are_known_by_the_name_torch_gives(name: str, key: str | None) -> None:
    assert known_device(name) == (GPUS[key] if key else None)


def test_no_torch_is_loaded() -> None:
    code = "import sys, foldline.cluster.plan; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
