"""The plan against measurement: peaks of torch's allocator, and a network of another depth counted whole."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from foldline.cli import main
from foldline.cluster.launch import mpirun_command
from foldline.data_store.config import DataConfig, FeatureConfig
from foldline.model.config import ModelConfig, model_1_ptm, small, tiny
from foldline.trainer import plan
from foldline.trainer.config import DeepSpeedConfig, RunConfig, RunSection
from foldline.trainer.step import TrainingStep

HERE = Path(__file__).parent
FEATURES = FeatureConfig(crop_size=40, max_msa_clusters=12, max_extra_msa=24, max_templates=2, max_recycles=1)
OVER, UNDER = 0.15, 0.02  # how far the plan may be above and below what the allocator gave out


def deep(model: ModelConfig, evoformer: int, extra: int, templates: int) -> ModelConfig:
    return replace(
        model,
        evoformer=replace(model.evoformer, blocks=evoformer),
        extra_msa=replace(model.extra_msa, blocks=extra),
        template=replace(model.template, blocks=templates),
    )


def configure(model: ModelConfig, every: int = 1, precision: str = "fp32", micro_batch: int = 1) -> RunConfig:
    return RunConfig(
        DataConfig(),
        RunSection(dir="", steps=1, micro_batch=micro_batch),
        model,
        FEATURES,
        deepspeed=DeepSpeedConfig(checkpoint_blocks_every=every, precision=precision),
    )


def allocated(config: RunConfig) -> int:
    """Most bytes that torch's allocator had given out at once during a pass and its derivative, gradients of weights dropped."""
    step = TrainingStep(config).train()
    for parameter in step.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    sizes = plan._sizes(config, config.features.crop_size)
    features, targets = (kind(*(torch.ones_like(x) for x in plan._empty(kind, sizes))) for kind in (plan.FeatureBatch, plan.Targets))
    batch = plan.TrainBatch((features,), targets, torch.zeros(1, dtype=torch.long))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        step(batch).scaled.backward()
    live = peak = 0
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@pytest.mark.parametrize(
    ("model", "every", "precision", "micro_batch"),
    [
        pytest.param(deep(tiny(), 4, 3, 2), 0, "fp32", 1, marks=pytest.mark.slow),
        (deep(tiny(), 4, 3, 2), 1, "fp32", 2),
        pytest.param(deep(tiny(), 5, 1, 1), 2, "fp32", 1, marks=pytest.mark.slow),
        pytest.param(deep(tiny(), 4, 3, 2), 0, "bf16", 1, marks=pytest.mark.slow),
        pytest.param(deep(tiny(), 4, 3, 2), 1, "bf16", 1, marks=pytest.mark.slow),
        pytest.param(deep(small(), 4, 2, 1), 0, "fp32", 1, marks=pytest.mark.slow),
        pytest.param(deep(small(), 4, 2, 1), 1, "fp32", 1, marks=pytest.mark.slow),
    ],
    ids=["tiny-kept", "tiny-every1-batch2", "tiny-every2", "tiny-kept-bf16", "tiny-every1-bf16", "small-kept", "small-every1"],
)
def test_activations_are_what_the_allocator_gives_out(model: ModelConfig, every: int, precision: str, micro_batch: int) -> None:
    config = configure(model, every, precision, micro_batch)
    ratio = plan.cost_of(config, FEATURES.crop_size, every).peak / allocated(config)
    print(f"plan / allocator: {ratio:.3f}")
    assert 1 - UNDER <= ratio <= 1 + OVER


@pytest.mark.slow
@pytest.mark.parametrize("every", [0, 1])
def test_two_blocks_tell_what_five_cost(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure(deep(tiny(), 5, 3, 1), every)
    few = plan.cost_of(config, 32, every)
    for name in ("foldline.model.cost.COUNTED", "foldline.trainer.plan.COUNTED"):
        monkeypatch.setattr(name, 5)
    plan._census.cache_clear()
    whole = plan.cost_of(config, 32, every)
    plan._census.cache_clear()
    assert plan.flops(few.forward) == plan.flops(whole.forward)
    assert plan.flops(few.backward) == plan.flops(whole.backward)
    assert few.forward == whole.forward  # every kernel, also those without products
    assert few.kept == pytest.approx(whole.kept, rel=0.01)
    assert few.peak == pytest.approx(whole.peak, rel=0.02)


def test_a_backward_pass_is_two_forward_passes() -> None:
    """What the model FLOPs utilisation assumes."""
    cost = plan.cost_of(configure(deep(tiny(), 4, 1, 1), 0), 40, 0)
    assert plan.flops(cost.backward) == pytest.approx(2 * plan.flops(cost.forward), rel=0.05)


def test_products_are_counted_as_on_paper() -> None:
    """The pair transition alone: two linear layers of factor 4 on N^2 positions, 2 operations for each product and sum."""
    wide = tiny()
    one, two = (plan.forward_flops(configure(replace(wide, evoformer=replace(wide.evoformer, transition_factor=f)))) for f in (2, 3))
    n, rows = 40, 12 + 2
    per_factor = 2 * 2 * (wide.c_z**2 * n * n + wide.c_m**2 * rows * n) * wide.evoformer.blocks
    assert two - one == per_factor


def test_af2_takes_the_operations_it_is_known_for() -> None:
    config = replace(configure(model_1_ptm()), features=FeatureConfig())
    assert plan.forward_flops(config) == pytest.approx(11.80e12, rel=0.01)


@pytest.mark.slow
def test_deepspeed_holds_what_is_planned(tmp_path: Path) -> None:
    """Two ranks, each stage: tensors that live between steps, and the peak within one."""
    out = tmp_path / "held.json"
    job = mpirun_command(2, [sys.executable, str(HERE / "plan_job.py"), str(out)])
    done = subprocess.run(job, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for row in json.loads(out.read_text()):
        print(row)
        assert row["state"] == pytest.approx(row["planned_state"], rel=0.1 if row["stage"] == 3 else 0.05), row
        assert 0.95 <= row["planned_peak"] / row["peak"] <= 1.3, row


CONFIG = """
[model]
preset = "tiny"
[data]
store = "nowhere"
[features]
crop_size = 32
max_msa_clusters = 8
max_extra_msa = 8
[run]
dir = "nowhere"
steps = 1
"""


def planned(tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str, str]:
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    code = main(["plan", "--config", str(path), *more])
    return code, *capsys.readouterr()


@pytest.mark.slow
def test_the_command_prints_a_table_and_the_same_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, _ = planned(tmp_path, capsys, "--gpu", "a10", "--world", "2")
    assert code == 0
    for words in (
        "parameters",
        "activations kept",
        "every block*",
        "longest crop with the configured policy:",
        "cheapest policy that fits:",
    ):
        assert words in printed
    code, printed, _ = planned(tmp_path, capsys, "--gpu", "a10", "--world", "2", "--json")
    found = json.loads(printed)
    assert found["chosen"]["total"] == pytest.approx(sum(found["chosen"]["memory"].values()))
    assert found["cheapest"]["every"] == 0  # a tiny network needs no recomputing
    assert {policy["every"] for policy in found["policies"]} == {0, 1, 2, 4}
    crops = {policy["every"]: policy["longest_crop"] for policy in found["policies"]}
    assert crops[0] < crops[4] <= crops[2] <= crops[1]


@pytest.mark.slow
def test_what_does_not_fit_is_said_with_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, _ = planned(tmp_path, capsys, "--gpu", "a10", "--set", "features.crop_size=2000")
    assert code == 1
    assert "fits: no" in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--gpu", "h10"], "--gpu 'h10' is not in the table; did you mean 'a10'?"),
        (["--world", "0"], "--world 0 is less than 1"),
        (["--world", "3", "--set", "run.batch=8"], "run.batch = 8 cannot be shared by 3 ranks"),
    ],
)
def test_bad_input_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str) -> None:
    code, _, errors = planned(tmp_path, capsys, *more)
    assert code == 2
    assert message in errors
