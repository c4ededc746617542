"""The runner of an engine set: picks the bucket of a chain, keeps every tensor on the device from the first pass to the last."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import FoldlineError
from ...model.config import ModelConfig
from ...model.weights import read_weights
from ..graph import Arrays, output_schema
from ..profiles import MULTIPLES, Profile, choose_profile, limits_of
from ..runners import Features, Limits, State, check_sizes, feature_schema
from ..stages import stages
from .backend import cache_folder, load, this_gpu, why_not
from .engine import KernelStore, Runtime, StageEngine
from .identity import check, check_gpu
from .launch import GraphLauncher
from .passes import BucketPass, Scratch, StageExecutor
from .plugins import plugins_here
from .weights import WEIGHTS_FILE

Opener = Callable[[Profile], Sequence[StageExecutor]]


class BucketState:
    """The results of the newest pass, where they were made."""

    def __init__(self, owner: BucketRunner, bucket: BucketPass, n_res: int) -> None:
        self.bucket, self.n_res = bucket, n_res
        self._owner = owner

    def fetch(self, names: Sequence[str]) -> Arrays:
        """See ``State.fetch``."""
        return self._owner.fetch(self, names)


class BucketRunner:
    """Runs stages by bucket on ``device``. ``open_bucket`` makes the executors of a profile; it is called when a chain first needs one."""

    multiple = MULTIPLES["N_res"]

    def __init__(self, name: str, config: ModelConfig, profiles: Sequence[Profile], open_bucket: Opener, device: torch.device) -> None:
        self.name, self.config = name, config
        read = {dim for field in feature_schema(config).values() for dim in field.dims}
        self.limits: Limits = {dim: limit for dim, limit in limits_of(profiles).items() if dim in read}
        self.device = device
        self._profiles, self._open = tuple(profiles), open_bucket
        self._buckets: dict[str, BucketPass] = {}
        self._scratch = Scratch(device)
        self._newest: BucketState | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def start(self, features: Features, previous: State | None) -> BucketState:
        """See ``Runner.start``. ``previous`` is the state of the pass just before: its tensors are overwritten."""
        profile, sizes = choose_profile(self._profiles, check_sizes(features, self))
        if previous is not None:
            previous = self._newest_state(previous)
            if previous.n_res != sizes["N_res"]:
                raise ValueError(
                    f"input 'prev_m_1' is of {previous.n_res} residues, the pass wants {sizes['N_res']}: the state is of another chain"
                )
        self._newest = None  # nothing is left of it from here on, also when the pass fails
        with torch.inference_mode(), self._on_stream():
            bucket = self._bucket(profile)
            key = bucket.resize(sizes)
            bucket.upload(features)
            bucket.recycle(None if previous is None else previous.bucket)
            self._launch(profile, bucket, key)
        self._newest = BucketState(self, bucket, sizes["N_res"])
        return self._newest

    def fetch(self, state: BucketState, names: Sequence[str]) -> Arrays:
        """Copies of a state's results in host memory."""
        schema = output_schema(self.config)
        unknown = [name for name in names if name not in schema]
        if unknown:
            raise ValueError(f"a pass has no output {unknown}; it has {list(schema)}")
        bucket = self._newest_state(state).bucket
        with torch.inference_mode(), self._on_stream():
            return {name: _on_host(bucket.tensor(name)) for name in names}

    def _launch(self, profile: Profile, bucket: BucketPass, key: object) -> None:
        bucket.enqueue()

    def _bucket(self, profile: Profile) -> BucketPass:
        if profile.name not in self._buckets:
            self._buckets[profile.name] = BucketPass(self._open(profile), self.config, profile, self._scratch)
        return self._buckets[profile.name]

    def _newest_state(self, state: State) -> BucketState:
        if state is not self._newest or not isinstance(state, BucketState):
            raise RuntimeError("this state was overtaken by a later pass of its runner, which works in the same memory; fetch before it")
        return state

    def _on_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


class TensorRTRunner(BucketRunner):
    """An engine set on the first GPU. ``cuda_graph``: record passes of equal sizes."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], model: ModelConfig, cuda_graph: bool = True) -> None:
        backend = facts["backend"]
        reason, gpu = why_not(backend), this_gpu()
        if reason is not None or gpu is None:
            raise FoldlineError(reason or f"engine '{backend}' needs an NVIDIA GPU")
        trt = load(backend)
        check(facts, {"version": trt.__version__} | plugins_here(facts), str(folder))
        check_gpu(facts, gpu, str(folder))
        self._folder, self._facts = folder, facts
        self._runtime = Runtime.start(backend, trt)
        self._kernels = KernelStore(_kernel_file(facts, gpu)) if backend == "tensorrt_rtx" else None
        if self._kernels is not None:
            weakref.finalize(self, self._kernels.save)  # when the runner goes, at the latest with the process
        self._launchers: dict[str, GraphLauncher] = {}
        self._cuda_graph = cuda_graph
        self._opened: dict[str, list[StageEngine]] = {}
        profiles = [Profile.from_dict(saved) for saved in facts["profiles"]]
        super().__init__(backend, model, profiles, self._open_engines, torch.device("cuda"))

    @property
    def not_recorded(self) -> dict[str, str]:
        """Profile -> why its passes are not recorded as CUDA graphs, where they are not."""
        return {name: launcher.refused for name, launcher in self._launchers.items() if launcher.refused}

    def _open_engines(self, profile: Profile) -> Sequence[StageExecutor]:
        plans, counts = self._facts["plans"][profile.name], self._facts.get("parameters", {})
        values = read_weights(self._folder / WEIGHTS_FILE)[0] if counts else None
        engines = []
        for stage in stages(self.config):
            weights = None if values is None else (values, counts[stage.name])
            engines.append(StageEngine(self._runtime, stage, self._folder / plans[stage.name]["file"], weights, self._kernels))
        self._opened[profile.name] = engines
        self._launchers[profile.name] = GraphLauncher(f"{self.name} {profile.name}")
        return self._opened[profile.name]

    def _launch(self, profile: Profile, bucket: BucketPass, key: object) -> None:
        if not self._cuda_graph:
            bucket.enqueue()
            return
        engines = self._opened[profile.name]

        def obstacle() -> str:
            if "plugins" in self._facts:
                return "its plugins run Python, and their memory is not the pass's own"
            return next((reason for reason in (engine.why_not_recorded() for engine in engines) if reason), "")

        self._launchers[profile.name].run(key, bucket.enqueue, obstacle)


def _kernel_file(facts: Mapping[str, Any], gpu: Mapping[str, str]) -> Path:
    name = "".join(letter if letter.isalnum() else "-" for letter in gpu["name"])
    return cache_folder() / f"{facts['backend']}-{facts['version']}-{facts['identity'][:16]}-{name}.kernels"


def _on_host(tensor: Tensor) -> Any:
    return tensor.detach().to("cpu", torch.float32, copy=True).numpy()
