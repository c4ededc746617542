"""SIGTERM and SIGUSR1 to the launcher: the step is finished, a checkpoint saved, the job's exit code says requeue."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from foldline.trainer.loop import STOPPED

from .runs import FAULTS, Job, history, write_config


def stop(config: Path, number: signal.Signals, beyond: int, *more: str) -> int:
    """Start, signal the launcher once step ``beyond`` is done; the step after which the run stopped."""
    job = Job(config, *more, overrides=("run.steps=1000000", "run.checkpoint_every=1000000"))
    job.wait_until(lambda: job.step > beyond)
    job.process.send_signal(number)
    code, printed, errors = job.end()
    assert code == STOPPED, printed + errors
    assert "Traceback" not in errors
    step = history(job.run)[-1].step
    assert f"stopped by a signal after step {step}; go on with --resume" in printed
    assert json.loads((job.run / "state.json").read_text())["state"] == "stopped"
    assert (job.run / "checkpoints" / f"step_{step:08d}" / "manifest.json").exists()
    return step


def test_the_launcher_passes_a_signal_on_and_the_job_says_that_it_is_to_go_on(store: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, store, FAULTS)
    last = stop(config, signal.SIGTERM, 1)
    assert [record.step for record in history(tmp_path / "run")] == list(range(1, last + 1))


@pytest.mark.slow
def test_a_job_that_was_stopped_and_went_on_is_stopped_again(store: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, store, FAULTS)
    first = stop(config, signal.SIGUSR1, 1)
    last = stop(config, signal.SIGTERM, first + 1, "--resume")
    assert [record.step for record in history(tmp_path / "run")] == list(range(1, last + 1))
