"""Speed and peak memory of an engine beside PyTorch's, on the proteins of the gate, each row with how far its fold is from PyTorch's."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..data_store.config import FeatureConfig
from ..data_store.featurize import inference_cycles
from ..data_store.types import ChainRecord, FeatureBatch
from ..errors import FoldlineError
from .bench_memory import Peak, measure_peak
from .comparison import compare
from .config import BenchConfig
from .gate_checks import rms
from .gate_proteins import GateProtein, Selection
from .graph import Arrays
from .recycling import fold_cycles
from .runners import Runner

MEMORY_SECONDS = 3600.0  # a child that takes longer is stuck

Factory = Callable[[], Runner]  # can be pickled: memory is measured in processes of its own


@dataclass(frozen=True)
class Cell:
    """One contender on one protein.

    ``seconds`` per fold and ``ratios`` (seconds of the first contender's fold in the same round / own) are per round. ``lddt`` is the
    change of lDDT-Cα to the experiment (0..1) and ``rmsd`` (ångström, all atoms, not superposed) the distance, both from the first
    contender's fold. ``peak`` is None where memory was not measured.
    """

    contender: str
    protein: str
    residues: int
    rows: int
    first_seconds: float
    seconds: tuple[float, ...]
    ratios: tuple[float, ...]
    lddt: float | None
    rmsd: float
    peak: Peak | None

    @property
    def median(self) -> float:
        """Seconds per fold."""
        return statistics.median(self.seconds)

    @property
    def ratio(self) -> float:
        """Times as fast as the first contender."""
        return statistics.median(self.ratios)


@dataclass(frozen=True)
class BenchReport:
    """All cells, by protein and in the order of the contenders. ``left_out``: what was not measured, and why."""

    contenders: tuple[str, ...]
    repeats: int
    passes: int
    machine: str
    cells: tuple[Cell, ...]
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self) | {"cells": [asdict(cell) | {"median": cell.median, "ratio": cell.ratio} for cell in self.cells]}

    def ratios(self, contender: str) -> list[float]:
        """The contender's speed over the first's, a number per protein."""
        return [cell.ratio for cell in self.cells if cell.contender == contender]


def run_bench(
    contenders: Mapping[str, Factory],
    selection: Selection,
    features: FeatureConfig,
    passes: int,
    config: BenchConfig,
    *,
    device: str = "cpu",
    machine: str = "this machine",
    left_out: Sequence[str] = (),
    on_step: Callable[[str], None] = lambda text: None,
) -> BenchReport:
    """Fold each protein by each contender once to warm up, then ``config.repeats`` rounds in which the contenders take turns.

    All rounds run in this process, one fold at a time; a fold is ``passes`` passes from features to results in host memory. The first
    contender is what the others are compared with. ``device`` "cpu" or "cuda": whose memory is measured; ``machine``: its name.
    """
    if config.repeats < 1:
        raise FoldlineError(f"export.bench.repeats = {config.repeats} measures nothing; give at least 1")
    runners = {name: make() for name, make in contenders.items()}
    cells: list[Cell] = []
    for protein in selection.proteins:
        on_step(f"{protein.name}, {protein.residues} residues: {config.repeats} rounds of {', '.join(runners)}")
        cycles = inference_cycles(protein.record, features, 0, passes)
        timed = _rounds(runners, cycles, config.repeats)
        for name, make in contenders.items():
            peak = _peak(make, protein.record, features, device) if config.memory else None
            cells.append(_cell(name, protein, timed, peak))
    return BenchReport(tuple(contenders), config.repeats, passes, machine, tuple(cells), tuple(left_out))


@dataclass
class _Timed:
    """One contender's folds of one protein."""

    outputs: Arrays
    first_seconds: float
    seconds: list[float]


def _rounds(runners: Mapping[str, Runner], cycles: Sequence[FeatureBatch], repeats: int) -> dict[str, _Timed]:
    """Contenders take turns, and each round begins with another one: what drifts in the machine meets all alike."""
    timed = {}
    for name, runner in runners.items():
        seconds, outputs = _fold(runner, cycles)
        timed[name] = _Timed(outputs, seconds, [])
    order = list(runners)
    for done in range(repeats):
        for name in order[done % len(order) :] + order[: done % len(order)]:
            timed[name].seconds.append(_fold(runners[name], cycles)[0])
    return timed


def _fold(runner: Runner, cycles: Sequence[FeatureBatch]) -> tuple[float, Arrays]:
    start = time.perf_counter()
    outputs = fold_cycles(runner, cycles)  # its results are in host memory: a device has finished
    return time.perf_counter() - start, outputs


def _cell(name: str, protein: GateProtein, timed: Mapping[str, _Timed], peak: Peak | None) -> Cell:
    own, base = timed[name], next(iter(timed.values()))
    apart = np.linalg.norm(own.outputs["positions"] - base.outputs["positions"], axis=-1)[base.outputs["atom_mask"] > 0.5]
    before, after = (compare(t.outputs["positions"], protein.record.positions, protein.record.mask) for t in (base, own))
    return Cell(
        contender=name,
        protein=protein.name,
        residues=protein.residues,
        rows=protein.rows,
        first_seconds=own.first_seconds,
        seconds=tuple(own.seconds),
        ratios=tuple(theirs / ours for theirs, ours in zip(base.seconds, own.seconds, strict=True)),
        lddt=None if before is None or after is None else after.lddt_ca - before.lddt_ca,
        rmsd=rms(apart),
        peak=peak,
    )


def _peak(make: Factory, record: ChainRecord, features: FeatureConfig, device: str) -> Peak:
    """``measure_peak`` in a new process, which has done nothing else. Raises FoldlineError where that process dies."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=measure_peak, args=(theirs, make, record, features, device), daemon=True)
    child.start()
    theirs.close()
    try:
        found = ours.recv() if ours.poll(MEMORY_SECONDS) else None
    except EOFError:
        found = None
    finally:
        child.join(5)
        if child.is_alive():
            child.kill()
            child.join()
    if not isinstance(found, Peak):
        name = record.metadata.chain_id
        raise FoldlineError(
            f"the process that measures the memory of {name} ended (code {child.exitcode}): {found or 'out of memory?'}; "
            "give --set export.bench.memory=false, or fewer bins"
        )
    return found
