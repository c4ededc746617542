"""Starting ranks: exit codes come back, no orphan stays."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from foldline.cluster import launch
from foldline.errors import FoldlineError


def test_no_ranks_is_an_error() -> None:
    with pytest.raises(FoldlineError, match="--ranks 0"):
        launch.mpirun(0, ["doctor"])


def test_the_exit_code_of_the_job_comes_back() -> None:
    assert launch.mpirun(2, ["--version"]) == 0
    assert launch.mpirun(2, ["store", "ls", "no-such-store"]) == 2


def test_what_a_killed_mpirun_leaves_is_cleared() -> None:
    job = subprocess.Popen(launch.mpirun_command(1, ["sleep", "600"]))
    left, end = Path(tempfile.gettempdir()) / f"ompi.{job.pid}", time.monotonic() + 60
    ranks: list[psutil.Process] = []
    while not (left.exists() and ranks):
        assert job.poll() is None
        assert time.monotonic() < end
        ranks = psutil.Process(job.pid).children()
        time.sleep(0.05)
    job.kill()
    job.wait(60)
    for rank in ranks:
        rank.kill()
    psutil.wait_procs(ranks, timeout=60)
    assert left.exists(), "mpirun cleared up although it was killed: clear_session is not needed any more"
    launch.clear_session(job.pid)
    assert not left.exists()


def test_a_missing_mpirun_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(launch.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FoldlineError, match=r"pip install 'foldline\[train\]'"):
        launch.find_mpirun()
