"""What test_runners runs without the annotations' checks: the laws of all runners, for those that torch's compilers make."""

from __future__ import annotations

from pathlib import Path

from foldline.export.runners import Runner
from foldline.export.runners_aoti import LONGEST, AOTInductorRunner, compile_package
from foldline.export.runners_torch import TorchRunner
from foldline.model.alphafold import AlphaFold
from foldline.tests.export.conformance import RunnerLaws

LIMITS = {"N_res": (2, LONGEST), "N_clust": (2, 16), "N_extra": (2, 32), "N_templ": (2, 8)}


class TestTorchCompile(RunnerLaws):
    def make(self, model: AlphaFold, graphs: Path, folder: Path) -> Runner:
        return TorchRunner(model, compiled=True)


class TestAOTInductor(RunnerLaws):
    def make(self, model: AlphaFold, graphs: Path, folder: Path) -> Runner:
        compile_package(model, folder, "cpu", lambda text: None)
        return AOTInductorRunner(folder, model.config, model.state_dict(), "cpu", LIMITS)
