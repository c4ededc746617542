"""DeepSpeed for real on two ranks: partitions, EMA and checkpoints at every ZeRO stage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from foldline.cluster.launch import mpirun_command


def test_every_zero_stage_trains_averages_saves_and_resumes_alike(tmp_path: Path) -> None:
    command = mpirun_command(2, [sys.executable, str(Path(__file__).with_name("zero_job.py")), str(tmp_path)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in range(4):
        for rank in range(2):
            assert f"stage {stage} of rank {rank} done" in done.stdout
