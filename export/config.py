"""What an export asks for: opset, engine sizes, and the limits that the accuracy gate holds an engine to."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from ..errors import FoldlineError
from ..settings import load_or_default

WEIGHTS = ("auto", "fixed", "strip", "strip-identical")  # what becomes of them in TensorRT engines
COMPILE = ("auto", "always", "never")
NO_PLUGINS, CUEQUIVARIANCE = "none", "cuequivariance"
PLUGINS = (NO_PLUGINS, CUEQUIVARIANCE)  # whose kernels stand in an engine's graphs


@dataclass(frozen=True)
class Limits:
    """The largest differences from PyTorch in float32 that pass, each the worst over the proteins of the gate."""

    position_error: float  # ångström, worst atom of a pass, without superposing
    rmsd: float  # ångström, all atoms after the last pass, without superposing
    lddt: float  # change of lDDT-Cα to the experimental structure, 0..1
    plddt: float  # worst residue of a pass, 0..100
    mean_plddt: float  # of the chain, 0..100
    ptm: float
    pae: float  # ångström, predicted aligned error of the worst pair in a pass
    distogram: float  # worst probability of a pass


# By the precision of the engine. Those of bf16 and fp16 follow from what the same precision changes in PyTorch: docs/numerics.md.
LIMITS = {
    "fp32": Limits(
        position_error=0.1,
        rmsd=0.02,
        lddt=0.002,
        plddt=0.2,
        mean_plddt=0.05,
        ptm=0.002,
        pae=0.05,
        distogram=0.002,
    ),
    "bf16": Limits(
        position_error=2.0,
        rmsd=0.4,
        lddt=0.004,
        plddt=2.0,
        mean_plddt=0.2,
        ptm=0.003,
        pae=1.0,
        distogram=0.3,
    ),
    "fp16": Limits(
        position_error=0.5,
        rmsd=0.15,
        lddt=0.002,
        plddt=0.5,
        mean_plddt=0.1,
        ptm=0.002,
        pae=0.1,
        distogram=0.03,
    ),
}


@dataclass(frozen=True)
class LimitKeys:
    """The keys of ``Limits`` in a TOML file. None: what stands further out, at last the value of ``LIMITS``."""

    position_error: float | None = None
    rmsd: float | None = None
    lddt: float | None = None
    plddt: float | None = None
    mean_plddt: float | None = None
    ptm: float | None = None
    pae: float | None = None
    distogram: float | None = None

    def __post_init__(self) -> None:
        for item in fields(LimitKeys):
            value = getattr(self, item.name)
            if value is not None and not value >= 0:
                raise FoldlineError(f"export.gate.{item.name} = {value} must be at least 0: it is the largest difference that passes")


@dataclass(frozen=True)
class GateConfig(LimitKeys):
    """How an engine is compared with PyTorch in float32 on real proteins.

    A limit at this level holds for every precision; in ``fp32``, ``bf16`` or ``fp16`` for engines of that precision, before the former.
    Raises FoldlineError for values out of range.
    """

    bins: tuple[int, ...] = (128, 256, 384, 512)  # longest chain of each length bin; one protein stands for each
    covered_bins: int = 4  # bins that must have a protein, of those that the engine's sizes reach
    deep_rows: int = 500  # at least one protein's alignment is this deep; 0: any will do
    proteins: str = ""  # folder of A3M and mmCIF or PDB files; for bins that the run's store has no chain for
    recycles: int = 1  # passes after the first
    seed: int = 0
    padding: int = 5  # residues and MSA rows added for the padding check
    templates: bool = True  # the shortest protein once more with its own structure as templates, where the network reads templates
    fp32: LimitKeys = field(default_factory=LimitKeys)
    bf16: LimitKeys = field(default_factory=LimitKeys)
    fp16: LimitKeys = field(default_factory=LimitKeys)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.bins or list(self.bins) != sorted(set(self.bins)) or self.bins[0] < 1:
            raise FoldlineError(f"export.gate.bins = {list(self.bins)} must rise: the longest chain of each length bin, in residues")
        if not 1 <= self.covered_bins <= len(self.bins):
            raise FoldlineError(
                f"export.gate.covered_bins = {self.covered_bins} must lie between 1 and {len(self.bins)}, the number of bins"
            )
        for name in ("deep_rows", "recycles", "seed", "padding"):
            if getattr(self, name) < 0:
                raise FoldlineError(f"export.gate.{name} = {getattr(self, name)} must be at least 0")

    def limits(self, precision: str) -> Limits:
        """The limits of an engine of ``precision`` ("fp32", "bf16", "fp16")."""
        own: LimitKeys = {"fp32": self.fp32, "bf16": self.bf16, "fp16": self.fp16}[precision]
        chosen: dict[str, float] = {}
        for item in fields(Limits):
            given = (getattr(own, item.name), getattr(self, item.name), getattr(LIMITS[precision], item.name))
            chosen[item.name] = next(value for value in given if value is not None)
        return Limits(**chosen)


@dataclass(frozen=True)
class BenchConfig:
    """How an engine's speed and memory are measured beside PyTorch's, on the proteins of the gate."""

    repeats: int = 3  # folds of each protein by each contender, in turn; 0: the report has no speed
    compile: str = "auto"  # torch.compile as a contender: "always", "never", or "auto": where it can compile, which takes a minute or two
    memory: bool = True  # peak memory, by one process for each protein and contender

    def __post_init__(self) -> None:
        if self.repeats < 0:
            raise FoldlineError(f"export.bench.repeats = {self.repeats} must be at least 0")
        if self.compile not in COMPILE:
            raise FoldlineError(f"export.bench.compile = '{self.compile}' is none of {', '.join(COMPILE)}")


@dataclass(frozen=True)
class TensorRTConfig:
    """What only TensorRT's kinds ask: see ``tensorrt.options.BuildOptions``. Raises FoldlineError for values out of range."""

    weights: str = "auto"  # "fixed": in the plans, "strip": beside them, exchangeable, "strip-identical": beside them, only ever these
    portable: bool = False  # also for other GPUs of the same compute capability; not for tensorrt_rtx
    wide: int = 0  # longest chain of one more profile, for what is longer than all of export.lengths; 0: none

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise FoldlineError(f"export.tensorrt.weights = '{self.weights}' is none of {', '.join(WEIGHTS)}")
        if self.wide < 0:
            raise FoldlineError(f"export.tensorrt.wide = {self.wide} must be at least 0; 0 makes no wide profile")


@dataclass(frozen=True)
class ExportConfig:
    """How weights become an engine: the table ``[export]`` of a TOML file."""

    opset: int = 18
    engine: str = "auto"
    threads: int = 0  # ONNX Runtime's, within one operator; 0 = one per core
    precision: str = "fp32"  # of the engine: "fp32", "bf16" or "fp16"
    device: str = "auto"  # what the engine runs on: "cpu", "cuda", for ONNX Runtime also "tensorrt"; "auto": the best that works here
    lengths: tuple[int, ...] = (128, 256, 384, 512)  # N_res that a TensorRT engine is tuned for; the last is the longest it takes
    compute_capability: str = ""  # of the GPU to build for, "8.9"; "" = the one in this machine
    plugins: str = NO_PLUGINS  # "cuequivariance": its kernels compute the triangle updates of a `tensorrt` engine
    tensorrt: TensorRTConfig = field(default_factory=TensorRTConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise FoldlineError(f"export.threads = {self.threads} must be at least 0; 0 takes one per core")
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)) or self.lengths[0] < 8:
            raise FoldlineError(f"export.lengths = {list(self.lengths)} must rise, from at least 8 residues")
        if self.plugins not in PLUGINS:
            raise FoldlineError(f"export.plugins = '{self.plugins}' is none of {', '.join(PLUGINS)}")


@dataclass(frozen=True)
class ExportFile:
    """A TOML file for ``foldline export --config``."""

    export: ExportConfig = field(default_factory=ExportConfig)


def load_export_config(path: Path | None, overrides: tuple[str, ...]) -> ExportConfig:
    """``[export]`` of the file, or the defaults where none is given, under ``--set export.KEY=VALUE``. Raises FoldlineError as ``load``."""
    return load_or_default(ExportFile, path, overrides).export
