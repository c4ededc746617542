"""The gate around an engine of a bundle: its proteins, PyTorch with the bundle's weights beside it, the sealed report."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from .bundle import Bundle
from .config import ExportConfig
from .contenders import measure, torch_device
from .core import Core
from .engine_store import Engine, seal_gate
from .gate import GateReport, require, run_gate
from .gate_proteins import Selection, select_proteins
from .gate_report import write_report
from .kinds import Say
from .runners import Limits, Runner, TorchRunner


@dataclass(frozen=True)
class Gate:
    """Where the proteins come from (the run's store, where it is there, and its validation chains) and what is asked of an engine."""

    store: str
    validation: tuple[str, ...]
    config: ExportConfig
    timed: bool = True

    @classmethod
    def of(cls, bundle: Bundle, config: ExportConfig, timed: bool = True) -> Gate:
        """The gate of a bundle, whose run's store need not be on this machine."""
        data = bundle.manifest["data"]
        store = data["store"] if data["store"].startswith("s3://") or Path(data["store"]).exists() else ""
        return cls(store, tuple(data["validation"]), config, timed)

    def run(self, core: Core, engine: Engine, runner: Runner, say: Say) -> Engine:
        """Hold ``engine`` against PyTorch in float32 with the core's weights; returns it with its report.

        FoldlineError, and no report, where a check is over its limit.
        """
        selection = self.select(runner.limits)
        report = self._compare(core, engine, runner, selection, say)
        bench = measure(core, engine, selection, self.config, say) if self.timed and self.config.bench.repeats else None
        with tempfile.TemporaryDirectory(dir=core.path) as folder:
            write_report(Path(folder), report, bench, about(core, engine))
            return seal_gate(Path(folder), engine, engine.path)

    def select(self, limits: Limits) -> Selection:
        """The proteins for an engine of these size limits."""
        longest = limits["N_res"][1] if "N_res" in limits else None
        return select_proteins(self.store or None, self.validation, self.config.gate, longest)

    def _compare(self, core: Core, engine: Engine, runner: Runner, selection: Selection, say: Say) -> GateReport:
        reference = TorchRunner(core.network(), torch_device(engine))
        report = run_gate(
            reference, runner, selection, core.features, self.config.gate, engine.precision, on_protein=lambda name: say(f"gate: {name}")
        )
        require(report)
        return report


def about(core: Core, engine: Engine) -> dict[str, object]:
    """What the report says of the engine; its bytes are those of the graphs where it runs the core's own."""
    depends, graphs = engine.depends, core.graphs(engine.precision, engine.path)
    read = (
        sum(file.stat().st_size for file in graphs.rglob("*"))
        if engine.kind == "onnxruntime" and not graphs.is_relative_to(engine.path)
        else 0
    )
    shown = {name: depends[name] for name in ("kind", "precision", "device", "machine", "versions", "weights")}
    return shown | {"identity": engine.identity, "build_seconds": engine.facts["build_seconds"], "bytes": engine.facts["bytes"] + read}
