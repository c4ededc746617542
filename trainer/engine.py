"""DeepSpeed: its JSON from our config, the process group from our ranks, the engine around our module."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import distributed_c10d as c10d

from ..cluster.binding import cuda_index
from ..cluster.interfaces import choose_interface
from ..cluster.ranks import RankInfo, RendezvousError
from ..errors import FoldlineError, missing_package
from .config import RunConfig, passes_per_step, samples_per_step
from .optimizer import adam

NEVER = 1_000_000_000  # steps between DeepSpeed's own prints
PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # where DeepSpeed reads a rank's place
CHOSEN: set[str] = set()  # variables that say which network interface to use, and were set by us


def deepspeed_json(config: RunConfig, world: int) -> dict[str, Any]:
    """DeepSpeed's configuration for ``world`` ranks; a pure function, kept with every run as ``deepspeed.json``."""
    settings = config.deepspeed
    zero: dict[str, Any] = {"stage": settings.zero_stage}
    if settings.zero_stage:
        zero |= {
            "reduce_bucket_size": settings.reduce_bucket_size,
            "allgather_bucket_size": settings.reduce_bucket_size,
            "overlap_comm": settings.overlap_comm,
            "contiguous_gradients": True,
        }
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    passes, sample_by_sample = passes_per_step(config, world), config.optim.clip == "sample"
    document: dict[str, Any] = {
        "train_batch_size": samples_per_step(config, world),
        # With samples clipped one by one we add up the gradients of a step ourselves, and DeepSpeed sees them once.
        "train_micro_batch_size_per_gpu": config.run.micro_batch * (passes if sample_by_sample else 1),
        "gradient_accumulation_steps": 1 if sample_by_sample else passes,
        "gradient_clipping": config.optim.clip_norm if config.optim.clip == "batch" else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # torch's Adam: DeepSpeed's own needs a compiler at the start of the run
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": NEVER,
        "wall_clock_breakdown": False,
    }
    if settings.precision == "bf16":
        # Autocast keeps fp32 parameters; DeepSpeed's "bf16" section would round every one of them, layer norms included.
        document["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return document


def deepspeed_checkpoint(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` recomputed in the backward pass by DeepSpeed; tensors must be arguments of their own.

    DeepSpeed recomputes outside of the forward pass's autocast, so that is entered again here.
    """
    import deepspeed

    device = next(argument for argument in arguments if isinstance(argument, torch.Tensor)).device.type
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def run(*inputs: Any) -> Any:
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            return function(*inputs)

    return deepspeed.checkpointing.checkpoint(run, *arguments)


def require_deepspeed() -> None:
    """Raise FoldlineError with what to install where DeepSpeed is missing."""
    if importlib.util.find_spec("deepspeed") is None:
        raise missing_package("deepspeed", "train", "training")


def import_deepspeed() -> Any:
    """The package, without what no run of ours needs and every rank would load for seconds: MLflow, which its autotuner imports, and
    torch's compiler, which the Muon optimizer's module calls as soon as any optimizer is looked at.
    """
    tracked = "mlflow" in sys.modules
    if not tracked:
        sys.modules["mlflow"] = None  # type: ignore[assignment]  # an import of it fails, and the autotuner goes without
    try:
        import deepspeed
    finally:
        if not tracked:
            del sys.modules["mlflow"]
    from deepspeed.runtime import compiler

    plain = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    except ImportError:  # a version that has none
        pass
    finally:
        compiler.compile = plain
    return deepspeed


def choose_device(config: RunConfig, ranks: RankInfo) -> torch.device:
    """This rank's device. Raises FoldlineError where ``run.device = "cuda"`` cannot be had."""
    wanted = config.run.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise FoldlineError('run.device = "cuda", but torch sees no CUDA device; set run.device to "cpu" or "auto"')
    return torch.device("cuda", cuda_index(ranks, torch.cuda.device_count(), os.environ))


def start_process_group(config: RunConfig, ranks: RankInfo) -> torch.device:
    """Join the job's ranks through DeepSpeed (gloo on the CPU, NCCL on CUDA) and set threads and device."""
    require_deepspeed()
    device = choose_device(config, ranks)
    torch.set_num_threads(config.run.threads or max(1, len(os.sched_getaffinity(0)) // ranks.local_world))
    if config.run.deterministic:
        make_deterministic()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # DeepSpeed reads the place of a rank from these, and would otherwise look for an MPI of its own.
    os.environ.update(RANK=str(ranks.rank), LOCAL_RANK=str(ranks.local_rank), WORLD_SIZE=str(ranks.world))
    os.environ.update(MASTER_ADDR=ranks.address, MASTER_PORT=str(ranks.port))
    take_interface(ranks)
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    deepspeed = import_deepspeed()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")  # of DeepSpeed's calls, once a step
    # On the CPU init_distributed compiles this extension for minutes, and gloo does without it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    try:
        deepspeed.init_distributed(
            dist_backend="nccl" if device.type == "cuda" else "gloo",
            auto_mpi_discovery=False,
            verbose=False,
            timeout=timedelta(seconds=config.run.collective_timeout),
            init_method=f"tcp://{ranks.address}:{ranks.port}",
            rank=ranks.rank,
            world_size=ranks.world,
        )
    except RuntimeError as error:  # torch's own errors and those of gloo and NCCL, which have no class
        reason = str(error).partition("\n")[0]
        raise RendezvousError(
            f"rank {ranks.rank} cannot meet the others at {ranks.address}:{ranks.port} ({reason}); "
            f"the launcher ({ranks.source}) must name rank 0's host and a port that is free there"
        ) from None
    return device


def take_interface(ranks: RankInfo) -> None:
    """Tell gloo and NCCL which network interface leads to the other ranks, where nobody has told them."""
    interface = choose_interface(ranks.address, ranks.port, ranks.world == ranks.local_world, os.environ)
    os.environ.update(interface)
    CHOSEN.update(interface)


def make_deterministic() -> None:
    """torch refuses operations whose result depends on the order in which threads arrive; to be called before CUDA's first use."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time and hides no race here
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def initialize(module: nn.Module, config: RunConfig, world: int) -> Any:
    """DeepSpeed's engine around ``module`` with our Adam; the module's weights must be equal on all ranks."""
    import deepspeed

    engine, *_ = deepspeed.initialize(
        model=module, optimizer=adam(module.parameters(), config.optim), config=deepspeed_json(config, world), dist_init_required=False
    )
    limit_groups(config.run.collective_timeout)
    return engine


def limit_groups(seconds: float) -> None:
    """DeepSpeed reduces in groups that it makes with torch's time-out of 10 (NCCL) to 30 minutes (gloo): give every group ours."""
    for group in list(c10d._world.pg_map):
        c10d._set_pg_timeout(timedelta(seconds=seconds), group)


def stop_process_group() -> None:
    """Leave the job; what is still under way is waited for."""
    if dist.is_initialized():
        dist.destroy_process_group()
    for name in (*PLACE, *CHOSEN):  # or a program started later by this process would take itself for a rank of the job
        os.environ.pop(name, None)
    CHOSEN.clear()
