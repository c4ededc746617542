"""``foldline plan --nodes`` on the real network, and on what it says of published runs."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from foldline.cli import main
from foldline.cluster.plan import GPUS
from foldline.cluster.scaling import Cluster, calibrate, grow
from foldline.data_store.arrays import OPEN_PARTS
from foldline.trainer import plan, scale
from foldline.trainer.config import RunConfig, load_config

from .runs import BARE, write_config

SIZES = BARE.replace("steps = 6", "steps = 1000\nbatch = 16")
CROP = 16  # of the tests' network
MLPERF_ONE, MLPERF_DAP8 = 1.81, 0.682  # seconds: one H100 and sample; groups of eight, 256 samples (docs/scaling.md)


def configured(folder: Path, *overrides: str) -> RunConfig:
    path = write_config(folder, "nowhere", SIZES)
    return load_config(path, ["model.template.enabled=true", "features.max_templates=2", *overrides])


@pytest.mark.parametrize("every", [0, 1])
def test_blocks_and_the_rest_are_the_whole(tmp_path: Path, every: int) -> None:
    """Depth times a block's kernels, and those outside the stacks, are the kernels of the pass: none lost, none twice."""
    base = configured(tmp_path, f"deepspeed.checkpoint_blocks_every={every}")
    model = base.model
    config = replace(base, model=replace(model, evoformer=replace(model.evoformer, blocks=5), extra_msa=replace(model.extra_msa, blocks=3)))
    work = scale.workload(config)
    assert {stack.name.rsplit(".", 2)[-2]: stack.depth for stack in work.stacks} == {"stack": 1, "extra_msa_stack": 3, "evoformer": 5}
    cost = plan.cost_of(config, CROP, every)
    for rest, blocks, whole in (
        (work.forward, [(s.depth, s.forward) for s in work.stacks], cost.forward),
        (work.backward, [(s.depth, s.backward) for s in work.stacks], cost.backward),
    ):
        total = Counter(dict(rest))
        for depth, calls in blocks:
            total.update({call: depth * number for call, number in calls})
        assert total == Counter({tuple(kernel): number for kernel, number in whole.items()})
        assert all(number > 0 for _, number in rest)


def test_what_is_gathered_follows_the_sizes(tmp_path: Path) -> None:
    config = configured(tmp_path, "model.evoformer.blocks=3")
    work, model = scale.workload(config), config.model
    trunk = next(stack for stack in work.stacks if stack.name.endswith("evoformer.blocks"))
    part, rows = model.evoformer, config.features.max_msa_clusters + config.features.max_templates
    pairs = 2 * part.c_hidden_tri_mul + 2 * part.heads_tri + part.heads_msa
    assert trunk.gathered == 4 * (pairs * CROP**2 + rows * CROP * part.c_hidden_outer)
    assert trunk.swapped == 4 * (2 * model.c_z * CROP**2 + 2 * rows * CROP * model.c_m)
    assert work.batch == 16
    assert work.samples == 16_000
    assert work.open_files == OPEN_PARTS + 1


def test_the_command_tells_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configured(tmp_path)
    command = ["plan", "--config", str(tmp_path / "config.toml"), "--gpu", "a100-40", "--nodes", "1,4", "--price", "2"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    for word in ("samples/s", "GPU-h", "cost", "store, MB/s", "open files/node", "a failure in", "checkpoint every", "DAP is calculated"):
        assert word in printed
    assert main([*command, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [(point["gpus"], point["dap"]) for point in answer["points"]] == [(1, 1), (8, 1), (32, 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes", "0"], "--nodes 0 must be at least 1"),
        (["--nodes", "3"], "24 GPUs in groups of 2 cannot share 16 samples"),
        (["--nodes", "1", "--gpu", "cpu"], "--gpu 'cpu' cannot be planned over nodes"),
        (["--nodes", "1", "--network", "0"], "--network 0 is not above 0"),
        (["--nodes", "1", "--measured", "-1", "--price", "-1"], "--measured -1 is negative.*--price -1 is negative"),
    ],
)
def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    configured(tmp_path)
    assert main(["plan", "--config", str(tmp_path / "config.toml"), *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_nodes_that_are_no_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configured(tmp_path)
    with pytest.raises(SystemExit):
        main(["plan", "--config", str(tmp_path / "config.toml"), "--nodes", "1,x"])
    assert "'1,x' is not a list of whole numbers" in capsys.readouterr().err


@pytest.mark.slow
def test_how_far_the_model_is_from_published_runs(tmp_path: Path) -> None:
    """The factors that docs/scaling.md states: NVIDIA's MLPerf runs on H100s, with fused kernels where ours are counted one by one."""
    (tmp_path / "config.toml").write_text('preset = "af2_initial"\n[data]\nstore = "nowhere"\n[run]\ndir = "run"\n')
    work = scale.workload(load_config(tmp_path / "run.toml", ["deepspeed.precision=bf16"]))
    cluster = Cluster(GPUS["h100-80"])
    alone, shared = grow(replace(work, batch=1), cluster, 1), grow(replace(work, batch=256), cluster, 2048, 8)
    assert alone.step / MLPERF_ONE == pytest.approx(1.61, abs=0.03)
    assert shared.step / MLPERF_DAP8 == pytest.approx(1.21, abs=0.03)
    fitted = calibrate(work, cluster, MLPERF_ONE)
    assert grow(replace(work, batch=256), fitted, 2048, 8).step / MLPERF_DAP8 == pytest.approx(0.80, abs=0.03)
