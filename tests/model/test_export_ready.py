"""The network as compilers see it: one graph, sizes open, no branch on values.

In a process of its own: the suite checks jaxtyping annotations at run time, which compilers cannot trace and users do not have.
"""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("how", ["export", "compile"])
def test_one_graph_gives_the_networks_results(how: str) -> None:
    """Open N_res, N_clust and N_extra, run at three sizes. ``export``: torch.export. ``compile``: torch.compile, fullgraph, one graph."""
    job = subprocess.run([sys.executable, "-m", "foldline.tests.model.compiling", how], capture_output=True, text=True, timeout=600)
    assert job.returncode == 0, job.stderr[-4000:]
