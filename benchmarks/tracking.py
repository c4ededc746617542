"""What tracking costs a training step: 30 metrics per step through the journal and the MLflow thread, against MLflow's own calls.

    python benchmarks/tracking.py --step-ms 500 --steps 100

The step is a sleep (a GPU works, the training thread waits) or, with ``--busy``, Python and numpy work that competes with the sending
thread for the interpreter. All variants run in turn on the same machine, each into a database of its own. Costs are CPU time of the
training thread around the recording call, and wall time of that call; "thread" is the CPU time of all other threads per step.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from foldline.data_store.config import DataConfig
from foldline.trainer.config import RunConfig, RunSection, TrackingConfig, to_json
from foldline.trainer.journal import Journal
from foldline.trainer.rundir import RunDir
from foldline.trainer.tracking.feed import prepare
from foldline.trainer.tracking.tracker import Tracker

METRICS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step-ms", type=float, default=500.0)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--flush-seconds", type=float, default=5.0)
    parser.add_argument("--busy", action="store_true")
    args = parser.parse_args()
    prepare()
    variants: dict[str, Callable[[Path, argparse.Namespace], tuple[Callable[[int], None], Callable[[], None]]]] = {
        "foldline: journal and thread": foldline,
        "mlflow.log_metrics": synchronous,
        "mlflow.log_metrics(synchronous=False)": asynchronous,
    }
    print(f"{args.steps} steps of {args.step_ms:g} ms, {METRICS} metrics each")
    print(f"{'':40}{'CPU ms':>9}{'wall ms':>9}{'slowest':>9}{'of a step':>11}{'threads, CPU ms':>17}")
    first = None
    for name, make in variants.items():
        with tempfile.TemporaryDirectory() as folder:
            cpu, wall, other = measure(*make(Path(folder), args), args)
        mean = sum(wall) / len(wall)
        first = first or mean
        share = f"{mean / args.step_ms:10.3%}"
        more = "" if mean == first else f"   {mean / first:.0f} times"
        print(f"{name:40}{median(cpu):9.3f}{median(wall):9.3f}{max(wall):9.2f}{share:>11}{other:17.2f}{more}", flush=True)


def measure(record: Callable[[int], None], close: Callable[[], None], args: argparse.Namespace) -> tuple[list[float], list[float], float]:
    """Milliseconds of each call: CPU of this thread, wall; and CPU of all other threads per step until everything is sent."""
    cpu, wall = [], []
    process, thread = time.process_time(), time.thread_time()
    for step in range(1, args.steps + 1):
        work(args.step_ms / 1000, args.busy)
        begin, begun = time.perf_counter(), time.thread_time()
        record(step)
        cpu.append((time.thread_time() - begun) * 1000)
        wall.append((time.perf_counter() - begin) * 1000)
    close()
    other = (time.process_time() - process) - (time.thread_time() - thread)
    return cpu, wall, other * 1000 / args.steps


def work(seconds: float, busy: bool) -> None:
    if not busy:
        time.sleep(seconds)
        return
    matrix, end = np.eye(64), time.thread_time() + seconds
    while time.thread_time() < end:
        matrix = matrix @ matrix


def values(step: int) -> dict[str, float]:
    return {f"loss/term{i}": step + i / METRICS for i in range(METRICS)}


def foldline(folder: Path, args: argparse.Namespace) -> tuple[Callable[[int], None], Callable[[], None]]:
    run = RunDir(folder)
    config = RunConfig(
        DataConfig(store="s"), RunSection(dir=str(folder), steps=args.steps), tracking=TrackingConfig(flush_seconds=args.flush_seconds)
    )
    run.config.write_text(to_json(config))
    journal = Journal(run.journal)
    tracker = Tracker(config, run)
    while not tracker.run_id and not tracker.trouble:  # the database is made
        time.sleep(0.05)

    def close() -> None:
        tracker.close()
        if tracker.trouble:
            raise SystemExit(tracker.trouble)

    return lambda step: journal.append("train", step, values(step)), close


def synchronous(folder: Path, args: argparse.Namespace) -> tuple[Callable[[int], None], Callable[[], None]]:
    return with_mlflow(folder, True)


def asynchronous(folder: Path, args: argparse.Namespace) -> tuple[Callable[[int], None], Callable[[], None]]:
    return with_mlflow(folder, False)


def with_mlflow(folder: Path, wait: bool) -> tuple[Callable[[int], None], Callable[[], None]]:
    import mlflow

    os.chdir(folder)
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.start_run()

    def close() -> None:
        mlflow.flush_async_logging()
        mlflow.end_run()

    return lambda step: mlflow.log_metrics(values(step), step=step, synchronous=wait), close


if __name__ == "__main__":
    main()
