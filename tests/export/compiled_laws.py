"""What test_runners runs without the annotations' checks: the laws of all runners, for those that torch's compilers make."""

from __future__ import annotations

import copy
from pathlib import Path

from foldline.data_store.config import FeatureConfig
from foldline.export.runners import Runner
from foldline.export.runners_aoti import AOTInductorRunner, compile_package, size_limits
from foldline.export.runners_torch import TorchRunner
from foldline.model.alphafold import AlphaFold
from foldline.tests.export.conformance import RunnerLaws

FEATURES = FeatureConfig(max_msa_clusters=16, max_extra_msa=32, max_templates=8)


class TestTorchCompile(RunnerLaws):
    def make(self, model: AlphaFold, graphs: Path, folder: Path) -> Runner:
        return TorchRunner(model, compiled=True)


class TestAOTInductor(RunnerLaws):
    def make(self, model: AlphaFold, graphs: Path, folder: Path) -> Runner:
        compile_package(model, folder, "cpu", lambda text: None)
        return AOTInductorRunner(folder, copy.deepcopy(model), "cpu", size_limits(model.config, FEATURES))
