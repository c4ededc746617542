"""Units on a pool. A worker that dies costs no unit: what was being made then is made again with every entry's reader watched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from pathlib import Path

from ...errors import FoldlineError
from ..pool import worker_pool
from .plan import Unit
from .reader import Options
from .work import marker_file, outcome_file, run_unit

_ROUNDS_WITHOUT_PROGRESS = 3


def run_units(
    folder: Path, units: Sequence[Unit], options: Options, workers: int, pool: Executor | None, finished: Callable[[Unit], None]
) -> None:
    """Make ``units`` on ``pool`` or, without one, on as many processes as are worth starting; ``finished`` is called with each.

    A unit during which a process died, now or in an earlier run, is made carefully, after all others where the death was seen here: then
    the memory is free. Raises what a worker raises, and FoldlineError when workers die however often they are replaced.
    """
    todo, stuck = list(units), 0
    while todo:
        if pool is not None:
            whole = _submit(pool, folder, todo, options, finished)
        else:
            with worker_pool(min(workers, len(todo)), False) as own:
                whole = _submit(own, folder, todo, options, finished)
        if whole:
            return
        left = [unit for unit in todo if not outcome_file(folder, unit.key).exists()]
        stuck = 0 if len(left) < len(todo) else stuck + 1
        if pool is not None or stuck == _ROUNDS_WITHOUT_PROGRESS:
            raise FoldlineError(
                f"workers die again and again while {len(left)} units are left; give fewer --workers or more memory: the next run "
                "goes on from here"
            )
        todo = sorted(left, key=lambda unit: marker_file(folder, unit.key).exists())


def _submit(pool: Executor, folder: Path, units: Sequence[Unit], options: Options, finished: Callable[[Unit], None]) -> bool:
    """Run ``units`` on ``pool``; False when one of its processes died, which ends the work of all."""
    futures = {}
    try:
        for unit in units:
            futures[pool.submit(run_unit, folder, unit, options, marker_file(folder, unit.key).exists())] = unit
        for future in as_completed(futures):
            future.result()
            finished(futures[future])
    except BrokenExecutor:
        for future, unit in futures.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                finished(unit)
        return False
    return True
