"""The DeepSpeed JSON is a pure function of config and world size."""

from __future__ import annotations

import os
import socket
from dataclasses import replace

import pytest
import torch

from foldline.cluster.ranks import RankInfo, RendezvousError
from foldline.data_store.config import DataConfig
from foldline.errors import FoldlineError
from foldline.trainer.config import RunConfig, RunSection
from foldline.trainer.engine import choose_device, deepspeed_json, start_process_group

CONFIG = RunConfig(DataConfig(store="s"), RunSection(dir="r", steps=1, micro_batch=2, accumulate=3))
RANK = RankInfo(1, 1, 2, 2, 0, "host", "127.0.0.1", 1, "single")


def test_the_document_for_zero_2() -> None:
    assert deepspeed_json(CONFIG, 4) == {
        "train_batch_size": 24,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 3,
        "gradient_clipping": 0.1,
        "zero_optimization": {
            "stage": 2,
            "reduce_bucket_size": 50_000_000,
            "allgather_bucket_size": 50_000_000,
            "overlap_comm": False,
            "contiguous_gradients": True,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }


def test_stage_0_has_no_buckets_and_bf16_keeps_fp32_weights() -> None:
    config = replace(CONFIG, deepspeed=replace(CONFIG.deepspeed, zero_stage=0, precision="bf16"))
    document = deepspeed_json(config, 1)
    assert document["zero_optimization"] == {"stage": 0}
    assert document["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert "bf16" not in document


def test_samples_clipped_one_by_one_reach_deepspeed_once_a_step() -> None:
    document = deepspeed_json(replace(CONFIG, optim=replace(CONFIG.optim, clip="sample")), 4)
    assert document["train_batch_size"] == 24
    assert (document["train_micro_batch_size_per_gpu"], document["gradient_accumulation_steps"]) == (6, 1)
    assert document["gradient_clipping"] == 0.0
    assert deepspeed_json(replace(CONFIG, optim=replace(CONFIG.optim, clip="none")), 4)["gradient_clipping"] == 0.0


def test_the_optimizer_goes_to_the_host_where_asked() -> None:
    zero = deepspeed_json(replace(CONFIG, deepspeed=replace(CONFIG.deepspeed, offload_optimizer=True)), 4)["zero_optimization"]
    assert zero["offload_optimizer"]["device"] == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_named_device_that_is_not_there_is_an_error() -> None:
    assert choose_device(CONFIG, RANK) == torch.device("cpu")
    with pytest.raises(FoldlineError, match=r'run.device = "cuda".*"cpu" or "auto"'):
        choose_device(replace(CONFIG, run=replace(CONFIG.run, device="cuda")), RANK)


def test_a_port_in_use_is_told_and_is_worth_another_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(
            RendezvousError, match=f"rank 0 cannot meet the others at 127.0.0.1:{port} .*a port that is free there"
        ) as raised:
            start_process_group(CONFIG, RankInfo(0, 0, 1, 1, 0, "host", "127.0.0.1", port, "slurm"))
    assert raised.value.exit_code == 69
