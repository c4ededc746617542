"""What a run is: one ``RunConfig`` from a TOML file, checked before anything starts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..cluster.preflight import PreflightConfig
from ..cluster.preflight import rules as preflight_rules
from ..data_store.config import DataConfig, FeatureConfig
from ..errors import FoldlineError
from ..model.config import ModelConfig
from ..model.precision import POLICIES
from ..settings import flatten, from_dict, load, to_dict
from .measures import ranking_problem
from .presets import RECIPES


@dataclass(frozen=True)
class OptimConfig:
    """Adam, its schedule in samples, clipping and the weight average (AF2 supplement 1.11.3, 1.11.7)."""

    lr: float = 1e-3
    warmup_samples: int = 128_000
    decay_after_samples: int = 6_400_000
    decay: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    clip: str = "batch"  # norm of the step's averaged gradient; "sample" = of each sample's gradient, as AF2; "none"
    clip_norm: float = 0.1
    ema_decay: float = 0.999


@dataclass(frozen=True)
class RunSection:
    """Where, how long and how often."""

    dir: str
    steps: int
    seed: int = 0
    micro_batch: int = 1  # samples per rank and pass
    accumulate: int = 1  # passes per optimizer step
    batch: int = 0  # samples per optimizer step over all ranks, in place of ``accumulate``; 0 = micro_batch x accumulate x ranks
    init_weights: str = ""  # safetensors to start from; "" = random
    init_fresh: tuple[str, ...] = ()  # modules of the network that ``init_weights`` may lack, e.g. "heads.pae"
    checkpoint_every: int = 100  # steps
    checkpoint_async: bool = True  # write beside the training, which goes on once its state is copied to the host
    checkpoint_mirror: str = ""  # a second place for every checkpoint, of this run alone and seen by all ranks; "" = none
    keep_last: int = 3  # checkpoints
    keep_every: int = 0  # further checkpoints: every step that is a multiple of this; 0 = none
    keep_best: int = 0  # further checkpoints: the best by ``validate.metric``, the very best also as weights/best.safetensors
    log_every: int = 10  # steps between printed lines
    skip_budget: int = 3  # steps within the last ``skip_window`` that may be skipped because they were not finite; 0 = none
    skip_window: int = 100  # steps
    threads: int = 0  # per rank; 0 = as many as the cores that the rank may use
    bind: bool = True  # a host's ranks divide the CPUs that the scheduler gave, each near its GPU; false: each runs on all of them
    device: str = "auto"  # "cpu", "cuda"; auto = cuda where torch sees one
    collective_timeout: float = 600.0  # seconds until a collective with a lost rank is an error
    deterministic: bool = False  # the same bits each time on the same hardware, slower on CUDA; an operation that cannot is an error


@dataclass(frozen=True)
class ValidateConfig:
    """Folding with the averaged weights, at step 0, every ``every`` steps and at the end."""

    mode: str = "inline"  # by the training ranks; "async": each checkpoint by `foldline validate --watch` beside them, without ``every``
    every: int = 500  # steps; 0 = only before and after
    trained_chains: int = 8  # the first so many of the training chains are folded too
    recycles: int = 3  # passes after the first
    pictures: int = 8  # chains whose distance maps are drawn
    metric: str = "validate/validation/lddt_ca"  # what makes a checkpoint the best, and stops the run
    patience: int = 0  # validations without a gain in ``metric`` after which the run ends; 0 = never
    min_delta: float = 0.0  # the least gain that counts for ``patience``


@dataclass(frozen=True)
class DeepSpeedConfig:
    """How the step is spread over ranks and fitted into memory; the DeepSpeed JSON follows from it."""

    zero_stage: int = 2
    precision: str = "fp32"  # or "bf16"; a policy of model/precision.py
    checkpoint_blocks_every: int = 1  # recompute activations of every so many blocks; 0 = keep them
    checkpointing: str = "torch"  # whose recomputation: "torch" or "deepspeed"
    offload_optimizer: bool = False  # Adam's state and step on the host: less GPU memory, a slower step
    reduce_bucket_size: int = 50_000_000  # elements
    overlap_comm: bool = False


@dataclass(frozen=True)
class TrackingConfig:
    """MLflow. The journal ``metrics.jsonl`` is written in any case."""

    mlflow: bool = True
    offline: bool = False  # write the run directory only; `foldline track sync` sends it later
    uri: str = ""  # "" = MLFLOW_TRACKING_URI, without that sqlite:///RUN/mlflow.db
    experiment: str = "foldline"
    run_name: str = ""  # "" = the run directory's name
    parent: str = ""  # a run's directory, an MLflow run id, or the name of a line of runs, whose parent run is then made
    register: str = ""  # model that a finished run becomes a version of, "champion" where it is best by validate.metric; "" = none
    flush_seconds: float = 20.0
    system_seconds: float = 10.0  # between samples of each host's CPU, memory and GPUs


@dataclass(frozen=True)
class RunConfig:
    """Everything a training run reads. Written in full to ``RUN/config.json``. Presets: AF2's recipes, ``trainer/presets.py``."""

    PRESETS: ClassVar[dict[str, Callable[[], Mapping[str, Any]]]] = RECIPES

    data: DataConfig
    run: RunSection
    model: ModelConfig = field(default_factory=ModelConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validate: ValidateConfig = field(default_factory=ValidateConfig)
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    preflight: PreflightConfig = field(default_factory=PreflightConfig)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, resolve and check a config. Raises FoldlineError for anything that could not train."""
    config = load(RunConfig, path, overrides)
    check(config)
    return config


def check(config: RunConfig) -> None:
    """Raise one FoldlineError that lists every value out of range and every contradiction between sections."""
    run, optim, deepspeed = config.run, config.optim, config.deepspeed
    trainable = [policy.name for policy in POLICIES.values() if policy.trainable]
    rules: list[tuple[bool, str]] = [
        (run.dir != "", "run.dir is empty; name a directory for the run"),
        *((getattr(run, name) >= 1, f"run.{name} = {getattr(run, name)} is below 1") for name in POSITIVE),
        (config.data.store != "", "data.store is empty; name the feature store that `foldline ingest` made"),
        (
            config.model.template.enabled or config.features.max_templates == 0,
            f"model.template.enabled = false, but features.max_templates = {config.features.max_templates}; set it to 0",
        ),
        (run.seed >= 0, f"run.seed = {run.seed} is negative"),
        (run.threads >= 0, f"run.threads = {run.threads} is negative; 0 shares the cores among the ranks"),
        (run.device in ("auto", "cpu", "cuda"), f"run.device = {run.device!r} is none of auto, cpu, cuda"),
        (run.collective_timeout > 0, f"run.collective_timeout = {run.collective_timeout} is not above 0 seconds"),
        (
            store_patience(config) < run.collective_timeout,
            f"data.store_patience = {config.data.store_patience} is not below run.collective_timeout = {run.collective_timeout}: "
            "the other ranks would give up a rank that waits for the store",
        ),
        (optim.lr > 0, f"optim.lr = {optim.lr} is not above 0"),
        (optim.warmup_samples >= 0, f"optim.warmup_samples = {optim.warmup_samples} is negative"),
        (0 < optim.decay <= 1, f"optim.decay = {optim.decay} is not within (0, 1]"),
        (optim.clip in ("sample", "batch", "none"), f"optim.clip = {optim.clip!r} is none of sample, batch, none"),
        (optim.clip_norm > 0, f'optim.clip_norm = {optim.clip_norm} is not above 0; optim.clip = "none" switches clipping off'),
        (run.skip_budget >= 0, f"run.skip_budget = {run.skip_budget} is negative; 0 ends the run at the first step that is not finite"),
        (run.keep_every >= 0, f"run.keep_every = {run.keep_every} is negative; 0 keeps none for good"),
        (run.batch >= 0, f"run.batch = {run.batch} is negative; 0 leaves it to run.accumulate"),
        (
            run.batch == 0 or run.accumulate == 1,
            f"run.batch = {run.batch} and run.accumulate = {run.accumulate} both say how many passes a step takes; give one of them",
        ),
        (run.init_weights != "" or not run.init_fresh, f"run.init_fresh = {list(run.init_fresh)} without run.init_weights says nothing"),
        *((0 <= getattr(optim, n) < 1, f"optim.{n} = {getattr(optim, n)} is not within [0, 1)") for n in ("beta1", "beta2", "ema_decay")),
        (deepspeed.zero_stage in (0, 1, 2, 3), f"deepspeed.zero_stage = {deepspeed.zero_stage} is none of 0, 1, 2, 3"),
        (deepspeed.precision in trainable, f"deepspeed.precision = {deepspeed.precision!r} is none of {', '.join(trainable)}"),
        (deepspeed.checkpoint_blocks_every >= 0, f"deepspeed.checkpoint_blocks_every = {deepspeed.checkpoint_blocks_every} is negative"),
        (
            deepspeed.checkpointing in ("torch", "deepspeed"),
            f"deepspeed.checkpointing = {deepspeed.checkpointing!r} is none of torch, deepspeed",
        ),
        (
            not deepspeed.offload_optimizer or deepspeed.zero_stage > 0,
            "deepspeed.offload_optimizer needs deepspeed.zero_stage 1, 2 or 3",
        ),
        (deepspeed.reduce_bucket_size >= 1, f"deepspeed.reduce_bucket_size = {deepspeed.reduce_bucket_size} is below 1"),
        (config.validate.every >= 0, f"validate.every = {config.validate.every} is negative; 0 validates before and after only"),
        (config.validate.recycles >= 0, f"validate.recycles = {config.validate.recycles} is negative"),
        (config.validate.trained_chains >= 0, f"validate.trained_chains = {config.validate.trained_chains} is negative"),
        (config.validate.pictures >= 0, f"validate.pictures = {config.validate.pictures} is negative"),
        (
            not config.tracking.register or bool(re.fullmatch(r"[^/:'\"]+", config.tracking.register)),
            f"tracking.register = {config.tracking.register!r} is no name of a model; leave out / : and quotes",
        ),
        (config.tracking.experiment != "", 'tracking.experiment is empty; name one, e.g. "foldline"'),
        *_validation_rules(config),
        *preflight_rules(config.preflight),
        (config.tracking.flush_seconds > 0, f"tracking.flush_seconds = {config.tracking.flush_seconds} is not above 0"),
        (config.tracking.system_seconds > 0, f"tracking.system_seconds = {config.tracking.system_seconds} is not above 0"),
    ]
    broken = [message for holds, message in rules if not holds]
    if broken:
        raise FoldlineError("; ".join(broken))


def _validation_rules(config: RunConfig) -> list[tuple[bool, str]]:
    validate, problem = config.validate, ranking_problem(config.validate.metric)
    ranks = config.run.keep_best > 0 or validate.patience > 0
    chains = validate.trained_chains if "/trained/" in validate.metric else len(config.data.validation)
    where = "validate.trained_chains is 0" if "/trained/" in validate.metric else "data.validation is empty"
    return [
        (validate.mode in ("inline", "async"), f"validate.mode = {validate.mode!r} is none of inline, async"),
        (config.run.keep_best >= 0, f"run.keep_best = {config.run.keep_best} is negative"),
        (validate.patience >= 0, f"validate.patience = {validate.patience} is negative; 0 never stops early"),
        (validate.min_delta >= 0, f"validate.min_delta = {validate.min_delta} is negative"),
        (problem == "", problem),
        (problem != "" or not ranks or chains > 0, f"validate.metric = {validate.metric!r} has no chains: {where}"),
        (
            not ranks or validate.mode == "async" or validate.every > 0,
            "run.keep_best and validate.patience need validations on the way; set validate.every",
        ),
    ]


POSITIVE = ("steps", "micro_batch", "accumulate", "checkpoint_every", "keep_last", "log_every", "skip_window")
# A resumed run keeps these; the rest (how long, how often, where logs go) may change between starts. That a step keeps its samples is
# checked once the number of ranks is known (resume.py).
FIXED = ("model", "data", "features", "optim", "run.seed")
# A store may move and be read in another way; its content hash is compared instead.
FREE = ("data.store", "data.workers", "data.prefetch", "data.store_patience", "data.slow_sample_seconds", "data.stuck_sample_seconds")


def changed_keys(saved: Mapping[str, Any], config: RunConfig) -> list[str]:
    """'key (was A, is B)' for every setting that a resumed run may not change; ``saved`` is the JSON of ``RUN/config.json``."""
    before, now = (flatten(to_dict(c)) for c in (from_dict(RunConfig, saved, "the saved config"), config))
    fixed = [key for key in now | before if key not in FREE and any(key == f or key.startswith(f"{f}.") for f in FIXED)]
    return [f"{key} (was {before.get(key)!r}, is {now.get(key)!r})" for key in sorted(fixed) if before.get(key) != now.get(key)]


def store_patience(config: RunConfig) -> float:
    """Seconds that a rank waits for a store that cannot be reached, by default so long that no rank is given up for it."""
    stated = config.data.store_patience
    return config.run.collective_timeout / 2 if stated is None else stated


def passes_per_step(config: RunConfig, world: int) -> int:
    """Micro-batches that each of ``world`` ranks takes in one optimizer step. FoldlineError where ``run.batch`` cannot be shared out."""
    run = config.run
    if not run.batch:
        return run.accumulate
    if run.batch % (run.micro_batch * world):
        raise FoldlineError(
            f"run.batch = {run.batch} cannot be shared by {world} ranks with run.micro_batch = {run.micro_batch}; "
            f"give a multiple of {run.micro_batch * world}, or other numbers of ranks"
        )
    return run.batch // (run.micro_batch * world)


def samples_per_step(config: RunConfig, world: int) -> int:
    """Samples that one optimizer step sees over all ranks."""
    return config.run.micro_batch * passes_per_step(config, world) * world


def to_json(config: RunConfig) -> str:
    """The resolved config as ``RUN/config.json`` holds it: sections ``model``, ``features``, ``data`` and so on."""
    return json.dumps(to_dict(config), indent=2, sort_keys=True) + "\n"
