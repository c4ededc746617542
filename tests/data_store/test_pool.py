"""The worker pool: the same results here, in processes and under MPI; nothing survives a stop."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foldline.data_store.pool import worker_pool
from foldline.errors import FoldlineError

SCRIPT = """
import sys, time
from pathlib import Path
from foldline.data_store.pool import worker_pool

def unit(number, seconds, folder):
    try:
        Path(folder, f"began-{number}").touch()
        time.sleep(seconds)
        return number * number
    finally:
        time.sleep(0.1 * number)  # clearing up takes a while, and one worker is done with it before the other
        Path(folder, f"ended-{number}").touch()

if __name__ == "__main__":
    workers, seconds, folder = sys.argv[1:]
    with worker_pool(1 if workers == "mpi" else int(workers), workers == "mpi") as pool:
        print("inside", flush=True)
        futures = [pool.submit(unit, number, float(seconds), folder) for number in range(6)]
        print([future.result() for future in futures])
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "units.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize("workers", ["1", "2", "mpi"])
def test_units_return_their_results_in_order(workers: str, script: Path, tmp_path: Path) -> None:
    if workers == "mpi" and importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpi4py is not installed")
    done = subprocess.run([sys.executable, script, workers, "0", tmp_path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "inside\n[0, 1, 4, 9, 16, 25]\n"), done.stderr


def test_under_mpirun_only_rank_zero_speaks(script: Path, tmp_path: Path) -> None:
    folder = Path(sys.executable).parent
    mpirun = shutil.which("mpirun", path=f"{folder}{os.pathsep}{os.environ['PATH']}")
    if mpirun is None or importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpirun and mpi4py are not installed")
    command = [mpirun, "--allow-run-as-root", "--oversubscribe", "-n", "3", sys.executable, script, "mpi", "0", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stdout) == (0, "inside\n[0, 1, 4, 9, 16, 25]\n"), done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_unwinds_the_units_that_run_and_drops_the_rest(number: signal.Signals, script: Path, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, script, "2", "30", tmp_path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(list(tmp_path.glob("began-*"))) == 2)
        process.send_signal(number)
        process.wait(timeout=15)
    finally:
        process.kill()
    assert process.returncode != 0
    assert sorted(path.name for path in tmp_path.glob("*ed-*")) == ["ended-0", "ended-1"]
    assert len(list(tmp_path.glob("began-*"))) == 2


def test_workers_end_when_their_parent_is_killed(script: Path, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, script, "2", "30", tmp_path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(tmp_path.glob("began-*"))) == 2)
    process.kill()
    process.wait()
    wait_for(lambda: len(list(tmp_path.glob("ended-*"))) == 2)


def test_no_worker_is_an_error() -> None:
    with pytest.raises(FoldlineError, match="--workers 0"), worker_pool(0, mpi=False):
        pass


def wait_for(true: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)
