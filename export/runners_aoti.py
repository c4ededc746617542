"""AOTInductor: the stages compiled ahead of time into one package without weights; they are handed over when it is opened.

Needs nothing beyond PyTorch (and a C++ compiler to build); on GPUs the kernels are Triton's.
"""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..data_store.config import FeatureConfig
from ..data_store.types import FieldSchema
from ..errors import FoldlineError
from ..model.alphafold import AlphaFold
from ..model.config import ModelConfig
from ..model.precision import apply_precision
from .core import Core
from .engine_store import Built, Engine
from .graph import output_schema
from .kinds import Order, Precisions, Say, common, cuda_device, cuda_missing, host, package_versions
from .runners import Features, Limits, State, TensorState, check_sizes, last_readers, recycled_tensors, to_tensors
from .stages import Stage, find_policy, stage_modules, stages

PACKAGE, TABLES = "pass.pt2", "tables.safetensors"
PREFIX = "model."  # a stage's name for the network it belongs to
SMALLEST, LONGEST = 2, 4096  # torch.export takes 0 and 1 for fixed sizes; N_res ends somewhere
TRACE_SIZES = {"N_res": 11, "N_clust": 5, "N_extra": 7, "N_templ": 3}  # all different, so that no two can be confused
# The weights come back beside the files, and are left out of the package; short vectors too, which would become numbers in the code.
OPTIONS = {
    "always_keep_tensor_constants": True,
    "aot_inductor.package": True,
    "aot_inductor.package_constants_in_so": False,
    "aot_inductor.package_constants_on_disk_format": "pickle_weights",
}


class AOTInductorRunner:
    """The compiled stages with the weights of ``network``'s state and the residue tables that were traced into them."""

    multiple = 1

    def __init__(self, folder: Path, config: ModelConfig, weights: Mapping[str, Tensor], device: str, limits: Limits) -> None:
        from torch.export.pt2_archive._package import load_pt2

        self.name, self.config, self.limits, self.device = "aotinductor", config, limits, torch.device(device)
        self._stages = stages(config)
        self._readers = last_readers(self._stages, output_schema(config))
        try:
            loaded = load_pt2(str(folder / PACKAGE)).aoti_runners
        except (RuntimeError, OSError) as error:
            raise FoldlineError(f"PyTorch {torch.__version__} cannot load {folder / PACKAGE}: {error}; build the engine again") from None
        self._compiled = {stage.name: loaded[stage.name] for stage in self._stages}
        tables = load_file(folder / TABLES)
        self._constants: dict[str, dict[str, Tensor]] = {}  # the packages point into these: they must live as long
        for stage in self._stages:
            names = self._compiled[stage.name].get_constant_fqns()
            given = {name: _constant(stage, name, weights, tables).to(self.device) for name in names}
            self._compiled[stage.name].load_constants(given, check_full_update=True, user_managed=True)
            self._constants[stage.name] = given

    def start(self, features: Features, previous: State | None) -> TensorState:
        """See ``Runner.start``."""
        check_sizes(features, self)
        known = to_tensors(features, self.config, self.device)
        with torch.inference_mode():
            known |= recycled_tensors(self.config, len(features["aatype"]), previous, self.device)
            for stage in self._stages:
                made = self._compiled[stage.name](*(known[name] for name in stage.inputs))
                known |= zip(stage.outputs, made, strict=True)
                for name in self._readers[stage.name]:
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
        """Compile every stage into the one package of ``folder``."""
        model = core.network()
        apply_precision(model, find_policy(order.precision))
        compile_package(model.to(order.device), folder, order.device, say)
        return Built(self._depends(core, order.precision, order.device), {"limits": _limits(core.features)})

    def depends(self, core: Core, engine: Engine) -> Mapping[str, Any]:
        """See ``Kind.depends``."""
        return self._depends(core, engine.precision, engine.device)

    def open(self, core: Core, engine: Engine) -> AOTInductorRunner:
        """See ``Kind.open``."""
        return AOTInductorRunner(engine.path, core.model, core.network().state_dict(), engine.device, engine.limits)

    def why_not_refit(self, engine: Engine) -> str | None:
        """They always can."""
        return None

    def refit(self, core: Core, old: Engine, folder: Path) -> Built:
        """The package holds no weights: it is the same, by hard link."""
        for name in (PACKAGE, TABLES):
            (folder / name).hardlink_to(old.path / name)
        return Built(self._depends(core, old.precision, old.device), old.details)

    def _depends(self, core: Core, precision: str, device: str) -> dict[str, Any]:
        machine = cuda_device() if device == "cuda" else host()
        return common(core, self.name, precision, device) | {"machine": machine, "versions": package_versions("torch")}


def compile_package(model: AlphaFold, folder: Path, device: str, say: Say) -> None:
    """Compile the stages of ``model`` into ``folder``: the package, and the tables that are constants of it but no parameters.

    The weights' values leave no trace: the compiler makes one constant of parameters that are equal, which other weights would not be, so
    that it is given a twin in which all of them differ.
    """
    from torch._inductor.package.package import package_aoti

    files: dict[str, list[Any]] = {}
    tables: dict[str, Tensor] = {}
    modules = stage_modules(_twin(model))
    for stage in stages(model.config):
        say(f"aotinductor: compiling {stage.name}")
        read, made = _compile(modules[stage.name], stage, device)
        files[stage.name] = [item for item in made if isinstance(item, str)]
        (constants,) = [item for item in made if not isinstance(item, str)]
        kept = [name for name in constants if not _is_table(name)]
        if len(kept) != len(set(read)):
            raise RuntimeError(f"stage {stage.name} reads {len(set(read))} parameters, and its package has {len(kept)}")
        tables |= {f"{stage.name}.{name}": value.detach().cpu().clone() for name, (value, _) in constants.items() if _is_table(name)}
    package_aoti(str(folder / PACKAGE), files)
    save_file(tables, folder / TABLES)


def _twin(model: AlphaFold) -> AlphaFold:
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator))
    return twin


def _compile(module: nn.Module, stage: Stage, device: str) -> tuple[list[str], list[Any]]:
    """The parameters that one stage reads; its files, with its constants by name among them."""
    sizes = {name: torch.export.Dim(name, min=SMALLEST, max=LONGEST) for name in TRACE_SIZES}
    shapes = tuple({axis: sizes[d] for axis, d in enumerate(schema.dims) if isinstance(d, str)} for schema in stage.inputs.values())
    example = tuple(_example(schema, device) for schema in stage.inputs.values())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
        program = torch.export.export(module.eval(), example, dynamic_shapes=(shapes,), strict=False)
        made: Any = torch._inductor.aot_compile(program.module(), example, options=OPTIONS)
    parameters = program.graph_signature.inputs_to_parameters
    return [parameters[node.name] for node in program.graph.nodes if node.users and node.name in parameters], list(made)


def _example(schema: FieldSchema, device: str) -> Tensor:
    shape = [d if isinstance(d, int) else TRACE_SIZES[d] for d in schema.dims]
    return torch.ones(shape, dtype=torch.int64 if schema.kind == "int" else torch.float32, device=device)


def _is_table(name: str) -> bool:
    """Tensors that tracing met and that belong to no module have names of torch's making."""
    return name.startswith("_tensor_constant")


def _constant(stage: Stage, name: str, weights: Mapping[str, Tensor], tables: Mapping[str, Tensor]) -> Tensor:
    if _is_table(name):
        return tables[f"{stage.name}.{name}"]
    return weights[name.removeprefix(PREFIX)]


def _limits(features: FeatureConfig) -> dict[str, tuple[int, int]]:
    """Every length that anyone folds, as many rows as the features have at most."""
    rows = {"N_clust": features.max_msa_clusters, "N_extra": features.max_extra_msa, "N_templ": features.max_templates}
    return {"N_res": (SMALLEST, LONGEST)} | {name: (SMALLEST, max(SMALLEST, count)) for name, count in rows.items()}
