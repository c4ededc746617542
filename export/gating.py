"""The gate around an engine of a bundle: its proteins, PyTorch with the bundle's weights beside it, the sealed report."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .bench import BenchReport, run_bench
from .bundle import Bundle
from .config import ExportConfig
from .contenders import contenders
from .core import Core
from .engine_store import Engine, seal_gate
from .engines import open_engine
from .gate import GateReport, require, run_gate
from .gate_proteins import Selection, select_proteins
from .gate_report import write_report
from .kinds import Say
from .runners import Runner, TorchRunner


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
        longest = runner.limits["N_res"][1] if "N_res" in runner.limits else None
        selection = select_proteins(self.store or None, self.validation, self.config.gate, longest)
        report = self._compare(core, engine, runner, selection, say)
        bench = self._measure(core, engine, selection, say) if self.timed and self.config.bench.repeats else None
        with tempfile.TemporaryDirectory(dir=core.path) as folder:
            write_report(Path(folder), report, bench, _about(engine))
            return seal_gate(Path(folder), engine, engine.path)

    def _compare(self, core: Core, engine: Engine, runner: Runner, selection: Selection, say: Say) -> GateReport:
        reference = TorchRunner(core.network())
        report = run_gate(
            reference, runner, selection, core.features, self.config.gate, engine.precision, on_protein=lambda name: say(f"gate: {name}")
        )
        require(report)
        return report

    def _measure(self, core: Core, engine: Engine, selection: Selection, say: Say) -> BenchReport:
        given = contenders(core.weights, core.model, (engine.kind, partial(open_engine, core, engine)))
        passes = self.config.gate.recycles + 1
        return run_bench(given, selection, core.features, passes, self.config.bench, on_step=lambda text: say(f"bench: {text}"))


def _about(engine: Engine) -> dict[str, object]:
    """What the report says of the engine."""
    depends = engine.depends
    shown = {name: depends[name] for name in ("kind", "precision", "device", "machine", "versions", "weights")}
    return shown | {"identity": engine.identity, "build_seconds": engine.facts["build_seconds"], "bytes": engine.facts["bytes"]}
