"""What an export asks for: opset, engine sizes, and the limits that the accuracy gate holds an engine to."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class GateConfig:
    """How an engine is compared with PyTorch in float32 on real proteins, and the largest differences that pass."""

    proteins: int = 2  # validation chains, shortest first
    recycles: int = 1  # passes after the first
    seed: int = 0
    max_residues: int = 256  # longer chains are left out: PyTorch runs them too
    padding: int = 5  # residues and MSA rows added for the padding check
    position_error: float = 0.1  # ångström, worst atom
    rmsd: float = 0.02  # ångström, all atoms, without superposing
    lddt: float = 0.002  # change of lDDT-Cα to the experimental structure, 0..1
    plddt: float = 0.2  # worst residue, 0..100
    ptm: float = 0.002
    distogram: float = 0.002  # worst probability


@dataclass(frozen=True)
class ExportConfig:
    """How weights become an engine."""

    opset: int = 18
    engine: str = "auto"
    threads: int = 0  # ONNX Runtime's, within one operator; 0 = one per core
    max_residues: int = 512  # largest chain that a TensorRT engine takes
    typical_residues: int = 256  # the length that TensorRT tunes for
    compute_capability: str = ""  # of the GPU to build for, "8.9"; "" = the one in this machine
    gate: GateConfig = field(default_factory=GateConfig)
