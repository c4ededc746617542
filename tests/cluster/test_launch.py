"""Starting ranks: exit codes come back, no orphan stays."""

from __future__ import annotations

import pytest

from foldline.cluster import launch
from foldline.errors import FoldlineError


def test_no_ranks_is_an_error() -> None:
    with pytest.raises(FoldlineError, match="--ranks 0"):
        launch.mpirun(0, ["doctor"])


def test_the_exit_code_of_the_job_comes_back() -> None:
    assert launch.mpirun(2, ["--version"]) == 0
    assert launch.mpirun(2, ["store", "ls", "no-such-store"]) == 2


def test_a_missing_mpirun_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(launch.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FoldlineError, match=r"pip install 'foldline\[train\]'"):
        launch.find_mpirun()
