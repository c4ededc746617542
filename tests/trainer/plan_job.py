"""Run by test_plan.py under mpirun: what DeepSpeed's tensors take at each stage, beside what the plan says."""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from foldline.cluster.plan import state_bytes, working_bytes
from foldline.cluster.ranks import discover
from foldline.data_store.config import DataConfig, FeatureConfig
from foldline.model.config import tiny
from foldline.trainer import plan
from foldline.trainer.clipping import make_gradients
from foldline.trainer.config import DeepSpeedConfig, RunConfig, RunSection
from foldline.trainer.ema import Ema
from foldline.trainer.engine import initialize, start_process_group, stop_process_group
from foldline.trainer.optimizer import set_learning_rate
from foldline.trainer.partitions import master_partitions
from foldline.trainer.step import TrainingStep

FEATURES = FeatureConfig(crop_size=24, max_msa_clusters=8, max_extra_msa=8, max_templates=1, max_recycles=0)
WIDE = replace(tiny(), c_s=384, heads=replace(tiny().heads, c_plddt=512))  # weights that count beside the activations


def live_bytes() -> int:
    """Of all tensors that Python can reach; those on the meta device take nothing."""
    gc.collect()
    found = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            found[storage._cdata] = storage.nbytes()
    return sum(found.values())


def held(stage: int, clip: str) -> dict[str, float | str]:
    """One engine through two steps of two passes each."""
    base = RunConfig(DataConfig(), RunSection(dir="", steps=1, device="cpu", threads=1, batch=4), WIDE, FEATURES)
    config = replace(
        base,
        optim=replace(base.optim, clip=clip),
        deepspeed=DeepSpeedConfig(zero_stage=stage, checkpoint_blocks_every=1, reduce_bucket_size=100_000),
    )
    sizes = plan._sizes(config, FEATURES.crop_size)
    features, targets = (kind(*(torch.ones_like(x) for x in plan._empty(kind, sizes))) for kind in (plan.FeatureBatch, plan.Targets))
    batch = plan.TrainBatch((features,), targets, torch.zeros(1, dtype=torch.long))
    before = live_bytes()
    engine = initialize(TrainingStep(config), config, 2)
    ema = Ema(master_partitions(engine, stage), 0.9)
    set_learning_rate(engine.optimizer, 1e-4)
    gradients = make_gradients(engine, config)

    def step() -> None:
        with gradients.collecting():
            for last in (False, True):
                gradients.backward(engine(batch).scaled, last=last)
        engine.step()
        ema.update()

    step()
    engine.zero_grad()
    state = live_bytes() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        step()
    now = peak = 0
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    how, parameters = plan.sharding(config, 2), plan.parameter_bytes(WIDE)
    planned, working = sum(state_bytes(parameters, how).values()), working_bytes(parameters, how)
    standing = parameters / 2 + working["buckets"] if stage == 3 else 0.0  # DeepSpeed keeps these between steps there
    activations = plan.cost_of(config, FEATURES.crop_size, 1).peak
    engine.destroy()
    return {
        "stage": stage,
        "clip": clip,
        "parameters": parameters,
        "state": state,
        "planned_state": planned + standing,
        "peak": state + peak,
        "planned_peak": planned + sum(working.values()) + activations,
    }


def main() -> None:
    ranks = discover()
    start_process_group(RunConfig(DataConfig(), RunSection(dir="", steps=1, device="cpu", threads=1)), ranks)
    rows = [held(stage, clip) for stage, clip in ((0, "batch"), (1, "batch"), (2, "batch"), (2, "sample"), (3, "batch"))]
    if ranks.rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(rows))
    stop_process_group()


if __name__ == "__main__":
    main()
