"""What a rank loads before its first step: nothing that takes seconds and that no training needs."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import torch
from foldline.trainer import loop
from foldline.trainer.engine import import_deepspeed
deepspeed = import_deepspeed()
from deepspeed.runtime import compiler
from deepspeed.runtime.zero.muon import muon_optimizer
loaded = [name for name in ("mlflow", "matplotlib", "torch._inductor.compile_fx", "pandas") if sys.modules.get(name)]
print(loaded, muon_optimizer.MuonWithAuxAdam.__name__, compiler.compile() is torch.compile, "mlflow" in sys.modules)
import mlflow
print(import_deepspeed() is deepspeed, sys.modules["mlflow"] is mlflow, callable(mlflow.MlflowClient))
"""


def test_a_rank_loads_deepspeed_without_mlflow_and_without_torchs_compiler() -> None:
    """Each would take a rank two to three seconds; both are there unharmed for whoever asks for them afterwards."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()[-2:]
    assert first == "[] MuonWithAuxAdam True False"
    assert second == "True True True"
