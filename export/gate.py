"""The gate: an engine folds real proteins beside PyTorch in float32, and is refused where the two differ by more than the limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..data_store.config import FeatureConfig
from ..data_store.featurize import inference_cycles
from ..data_store.types import ChainRecord, FeatureBatch
from ..errors import FoldlineError
from .comparison import compare
from .confidence import confidence_of, probabilities
from .config import GateConfig
from .graph import Arrays, crop_outputs, feeds_of, input_schema, output_schema, pad_feeds, sizes_of
from .recycling import fold_cycles
from .runners import Runner, run_fitted


@dataclass(frozen=True)
class Check:
    """One measured difference; a value that is not a number never passes."""

    protein: str
    name: str
    value: float
    limit: float
    unit: str

    @property
    def passed(self) -> bool:
        """Within the limit."""
        return bool(self.value <= self.limit)

    def __str__(self) -> str:
        return f"{self.protein}: {self.name} {self.value:.4g}{self.unit}, limit {self.limit:.4g}{self.unit}"


@dataclass(frozen=True)
class GateReport:
    """Every check of one engine."""

    engine: str
    reference: str
    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks over their limits."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def worst(self) -> dict[str, Check]:
        """Name of a check -> the protein on which it came closest to its limit, or went over it."""
        worst: dict[str, Check] = {}
        for check in self.checks:
            if check.name not in worst or _excess(check) > _excess(worst[check.name]):
                worst[check.name] = check
        return worst

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; values that are not finite become text."""
        checks = [asdict(check) | {"value": check.value if np.isfinite(check.value) else str(check.value)} for check in self.checks]
        return {"passed": not self.failures, "engine": self.engine, "reference": self.reference, "checks": checks}


def run_gate(
    reference: Runner,
    engine: Runner,
    records: Sequence[ChainRecord],
    features: FeatureConfig,
    config: GateConfig,
    on_protein: Callable[[str], None] = lambda name: None,
) -> GateReport:
    """Fold ``records`` with both runners and compare; ``on_protein`` is told each protein's name before it is folded."""
    if not records:
        raise ValueError("the gate needs at least one protein")
    checks: list[Check] = []
    for record in records:
        on_protein(record.metadata.chain_id)
        cycles = inference_cycles(record, features, config.seed, config.recycles + 1)
        checks += _accuracy(record, fold_cycles(reference, cycles), fold_cycles(engine, cycles), reference, config)
        checks += _stability(record, engine, cycles[0], config)
    return GateReport(engine.name, reference.name, tuple(checks))


def require(report: GateReport) -> None:
    """Raise one FoldlineError that lists every check over its limit."""
    if report.failures:
        listed = "; ".join(str(check) for check in report.failures)
        raise FoldlineError(f"the {report.engine} engine does not fold like {report.reference}, so no bundle was written: {listed}")


def choose_proteins(lengths: Mapping[str, int], config: GateConfig) -> list[str]:
    """The ids of the shortest chains, none longer than ``max_residues``. Raises FoldlineError when there is none."""
    chosen = sorted((length, name) for name, length in lengths.items() if length <= config.max_residues)[: config.proteins]
    if not chosen:
        raise FoldlineError(
            f"the gate needs a chain of at most {config.max_residues} residues, and {', '.join(sorted(lengths)) or 'no chain'} is offered; "
            "put shorter chains into data.validation"
        )
    return [name for _, name in chosen]


def _accuracy(record: ChainRecord, ours: Arrays, theirs: Arrays, reference: Runner, config: GateConfig) -> Iterator[Check]:
    """``ours``: PyTorch's outputs; ``theirs``: the engine's."""

    def check(name: str, value: float, limit: float, unit: str = "") -> Check:
        return Check(record.metadata.chain_id, name, value, limit, unit)

    heads = reference.config.heads
    broken = sum(int((~np.isfinite(value)).sum()) for value in theirs.values())
    yield check("values that are not finite", float(broken), 0.0)
    if broken:
        return  # nothing else can be measured
    distance = np.linalg.norm(ours["positions"] - theirs["positions"], axis=-1)[ours["atom_mask"] > 0.5]
    yield check("position error of the worst atom", _largest(distance), config.position_error, " Å")
    yield check("RMSD of all atoms", float(np.sqrt(np.mean(distance**2))) if distance.size else 0.0, config.rmsd, " Å")
    yield check("different atoms", float((ours["atom_mask"] != theirs["atom_mask"]).sum()), 0.0)
    before, after = (compare(outputs["positions"], record.positions, record.mask) for outputs in (ours, theirs))
    if before is not None and after is not None:
        yield check("change of lDDT-Cα", abs(before.lddt_ca - after.lddt_ca), config.lddt)
    known, new = (confidence_of(outputs, heads) for outputs in (ours, theirs))
    yield check("change of pLDDT", _largest(known.plddt - new.plddt), config.plddt)
    if known.ptm is not None and new.ptm is not None:
        yield check("change of pTM", abs(known.ptm - new.ptm), config.ptm)
    bins = probabilities(ours["distogram"]) - probabilities(theirs["distogram"])
    yield check("distogram probability error", _largest(bins), config.distogram)


def _stability(record: ChainRecord, engine: Runner, batch: FeatureBatch, config: GateConfig) -> Iterator[Check]:
    """The same input twice gives the same bits; padding changes nothing that is not padding."""
    name, schema = record.metadata.chain_id, input_schema(engine.config)
    feeds = feeds_of(batch, engine.config, None)
    once, again = run_fitted(engine, feeds), run_fitted(engine, feeds)
    different = sum(int((once[key] != again[key]).sum()) for key in once)
    yield Check(name, "values that change when run again", float(different), 0.0, "")
    sizes = {d: min(n + config.padding, engine.limits.get(d, (0, n + config.padding))[1]) for d, n in sizes_of(feeds, schema).items()}
    padded = crop_outputs(run_fitted(engine, pad_feeds(feeds, schema, sizes)), output_schema(engine.config), len(batch.aatype))
    moved = np.linalg.norm(once["positions"] - padded["positions"], axis=-1)[once["atom_mask"] > 0.5]
    yield Check(name, "position change by padding", _largest(moved), config.position_error, " Å")
    shift = confidence_of(once, engine.config.heads).plddt - confidence_of(padded, engine.config.heads).plddt
    yield Check(name, "pLDDT change by padding", _largest(shift), config.plddt, "")


def _excess(check: Check) -> float:
    """Sorts checks; what is not a number is worst."""
    return float("inf") if np.isnan(check.value) else check.value


def _largest(values: np.ndarray) -> float:
    """The largest magnitude; NaN stays NaN."""
    return float(np.abs(values).max()) if values.size else 0.0
