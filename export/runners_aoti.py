"""AOTInductor: the functions of ``segments`` compiled ahead of time into one package, which holds no weights: they are arguments.

Needs nothing beyond PyTorch (and a C++ compiler to build); on GPUs the kernels are Triton's.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..data_store.config import FeatureConfig
from ..data_store.types import FieldSchema
from ..errors import FoldlineError
from ..model.alphafold import AlphaFold
from ..model.config import ModelConfig
from ..model.precision import apply_precision
from .bundle import hash_of
from .core import Core
from .engine_store import Built, Engine
from .graph import output_schema
from .kinds import Order, Precisions, Say, common, cuda_device, cuda_missing, host, package_versions
from .runners import Features, Limits, State, TensorState, check_sizes, feature_schema, last_readers, recycled_tensors, to_tensors
from .segments import Call, Segment, calls_of
from .stages import find_policy

PACKAGE = "pass.pt2"
SMALLEST, LONGEST = 2, 4096  # torch.export takes 0 and 1 for fixed sizes; N_res ends somewhere
# All different, so that no two can be confused; N_seq counts rows of which N_clust are clusters.
TRACE_SIZES = {"N_res": 11, "N_clust": 5, "N_extra": 7, "N_templ": 3, "N_seq": 13}


class AOTInductorRunner:
    """The compiled functions under the parameters of ``model``, which moves to ``device``."""

    multiple = 1

    def __init__(self, folder: Path, model: AlphaFold, device: str, limits: Limits) -> None:
        from torch.export.pt2_archive._package import load_pt2

        self.name, self.config, self.limits, self.device = "aotinductor", model.config, limits, torch.device(device)
        parameters = {name: parameter.detach() for name, parameter in model.to(self.device).named_parameters()}
        self._calls = calls_of(model)
        self._given = [tuple(parameters[name] for name in call.parameters) for call in self._calls]
        self._readers = last_readers([call.stage for call in self._calls], output_schema(model.config))
        try:
            self._compiled = load_pt2(str(folder / PACKAGE)).aoti_runners
        except (RuntimeError, OSError) as error:
            raise FoldlineError(f"PyTorch {torch.__version__} cannot load {folder / PACKAGE}: {error}; build the engine again") from None
        if set(self._compiled) != {call.code for call in self._calls}:
            found = ", ".join(sorted(self._compiled))
            raise FoldlineError(f"{folder / PACKAGE} has the functions {found}, which are not this network's; build the engine again")

    def start(self, features: Features, previous: State | None) -> TensorState:
        """See ``Runner.start``."""
        check_sizes(features, self)
        known = to_tensors(features, self.config, self.device)
        with torch.inference_mode():
            known |= recycled_tensors(self.config, len(features["aatype"]), previous, self.device)
            for call, parameters in zip(self._calls, self._given, strict=True):
                # Compiled code reads every tensor as if it were contiguous, and what it makes need not be.
                given = [known[name].contiguous() for name in call.stage.inputs]
                made = self._compiled[call.code](*given, *parameters)
                known |= zip(call.stage.outputs, made, strict=True)
                for name in self._readers[call.stage.name]:
                    del known[name]
        return TensorState({name: known[name] for name in output_schema(self.config)})


class AOTInductorKind:
    """Engines compiled by PyTorch for one kind of machine and any size."""

    name = "aotinductor"

    def __init__(self) -> None:
        self.precisions: Precisions = {"cuda": ("fp32", "bf16"), "cpu": ("fp32", "bf16")}

    def why_not(self, device: str) -> str | None:
        """See ``Kind.why_not``."""
        return cuda_missing(self.name) if device == "cuda" else None

    def why_not_build(self, device: str) -> str | None:
        """See ``Kind.why_not_build``."""
        if shutil.which("g++") is None and shutil.which("clang++") is None:
            return "engine 'aotinductor' compiles C++ and finds neither g++ nor clang++; install one"
        return self.why_not(device)

    def build(self, core: Core, order: Order, folder: Path, say: Say) -> Built:
        """Compile every function of the pass into the one package of ``folder``."""
        model = core.network()
        apply_precision(model, find_policy(order.precision))
        compile_package(model.to(order.device), folder, order.device, say)
        return Built(self._depends(core, order.precision, order.device), {"limits": size_limits(core.model, core.features)})

    def depends(self, core: Core, engine: Engine) -> Mapping[str, Any]:
        """See ``Kind.depends``."""
        return self._depends(core, engine.precision, engine.device)

    def open(self, core: Core, engine: Engine) -> AOTInductorRunner:
        """See ``Kind.open``."""
        return AOTInductorRunner(engine.path, core.network(), engine.device, engine.limits)

    def why_not_refit(self, engine: Engine) -> str | None:
        """They always can."""
        return None

    def refit(self, core: Core, old: Engine, folder: Path) -> Built:
        """The package holds no weights: it is the same, by hard link."""
        (folder / PACKAGE).hardlink_to(old.path / PACKAGE)
        return Built(self._depends(core, old.precision, old.device), old.details)

    def _depends(self, core: Core, precision: str, device: str) -> dict[str, Any]:
        machine = cuda_device() if device == "cuda" else host()
        versions = package_versions("torch") | {"foldline": __version__}
        facts = {"machine": machine, "versions": versions, "functions": signatures(core.model)}
        return common(core, self.name, precision, device) | facts


def compile_package(model: AlphaFold, folder: Path, device: str, say: Say) -> None:
    """Compile the functions of a pass of ``model``, which lies on ``device``, into the package of ``folder``."""
    from torch._inductor.package.package import package_aoti

    files: dict[str, list[Any]] = {}
    for call in calls_of(model):
        if call.code not in files:
            say(f"aotinductor: compiling {call.code}")
            files[call.code] = _compile(call, model, device)
    package_aoti(str(folder / PACKAGE), files)


def signatures(config: ModelConfig) -> str:
    """Hash of the functions of a pass and their arguments in order: a package whose arguments have moved would compute nonsense."""
    with torch.device("meta"):
        calls = calls_of(AlphaFold(config))
    return hash_of([[call.code, *call.stage.inputs, "->", *call.stage.outputs, "of", *call.parameters] for call in calls])


def size_limits(config: ModelConfig, features: FeatureConfig) -> dict[str, tuple[int, int]]:
    """Every length that anyone folds, as many rows as the features have at most; of the dimensions that this network has."""
    rows = {"N_clust": features.max_msa_clusters, "N_extra": features.max_extra_msa, "N_templ": features.max_templates}
    limits = {"N_res": (SMALLEST, LONGEST)} | {name: (SMALLEST, max(SMALLEST, count)) for name, count in rows.items()}
    there = {d for schema in feature_schema(config).values() for d in schema.dims}
    return {name: limit for name, limit in limits.items() if name in there}


def _compile(call: Call, model: AlphaFold, device: str) -> list[Any]:
    """The files of one function. It is traced with parameters of its own: no value of the network's can become part of the code."""
    sizes = {name: torch.export.Dim(name, min=SMALLEST, max=LONGEST) for name in TRACE_SIZES}
    inputs = list(call.stage.inputs.values())
    shapes: list[Mapping[int, Any]] = [{axis: sizes[d] for axis, d in enumerate(schema.dims) if isinstance(d, str)} for schema in inputs]
    shapes += [{} for _ in call.parameters]
    parameters = [torch.zeros_like(model.get_parameter(name)).detach() for name in call.parameters]
    example = (*(_example(schema, device) for schema in inputs), *parameters)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
        program = torch.export.export(Segment(call, model).eval(), example, dynamic_shapes=(tuple(shapes),), strict=False)
        made: Any = torch._inductor.aot_compile(program.module(), example, options={"aot_inductor.package": True})
    return list(made)


def _example(schema: FieldSchema, device: str) -> Tensor:
    shape = [d if isinstance(d, int) else TRACE_SIZES[d] for d in schema.dims]
    return torch.ones(shape, dtype=torch.int64 if schema.kind == "int" else torch.float32, device=device)
