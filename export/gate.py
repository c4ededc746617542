"""The gate: an engine folds real proteins beside PyTorch in float32, and is refused where the two differ by more than the limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..data_store.config import FeatureConfig
from ..data_store.featurize import inference_cycles
from ..data_store.types import FeatureBatch
from ..errors import FoldlineError
from .comparison import compare
from .confidence import confidence_of
from .config import GateConfig
from .gate_checks import Check, accuracy, fold, pass_accuracy, refusal, stability
from .gate_proteins import Bin, GateProtein, Selection
from .gate_templates import templated
from .graph import Arrays
from .runners import Runner, TorchRunner


@dataclass(frozen=True)
class Scores:
    """What one runner's fold of a protein is worth: lDDT-Cα (0..1) to the experiment, mean pLDDT (0..100), pTM (None without that head)."""

    lddt: float | None
    plddt: float
    ptm: float | None


@dataclass(frozen=True)
class Folded:
    """One protein of the gate. ``clusters`` and ``extra``: the alignment rows that the network saw. ``engine``: None where not finite."""

    name: str
    residues: int
    rows: int
    clusters: int
    extra: int
    origin: str
    reference: Scores
    engine: Scores | None


@dataclass(frozen=True)
class GateReport:
    """Every check of one engine, and what it was made on."""

    engine: str
    reference: str
    checks: tuple[Check, ...]
    precision: str = "fp32"
    recycles: int = 0
    proteins: tuple[Folded, ...] = ()
    bins: tuple[Bin, ...] = ()

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

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GateReport:
        """A report that ``to_dict`` wrote; more keys may stand beside its own."""
        names = ("protein", "name", "value", "limit", "unit", "note")
        proteins = [
            one | {"reference": Scores(**one["reference"]), "engine": one["engine"] and Scores(**one["engine"])} for one in data["proteins"]
        ]
        return cls(
            engine=data["engine"],
            reference=data["reference"],
            checks=tuple(Check(**{name: one[name] for name in names} | {"value": float(one["value"])}) for one in data["checks"]),
            precision=data["precision"],
            recycles=data["recycles"],
            proteins=tuple(Folded(**one) for one in proteins),
            bins=tuple(Bin(**one) for one in data["bins"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; values that are not finite become text."""
        return {
            "passed": not self.failures,
            "engine": self.engine,
            "reference": self.reference,
            "precision": self.precision,
            "recycles": self.recycles,
            "proteins": [_finite(asdict(protein)) for protein in self.proteins],
            "bins": [asdict(one) for one in self.bins],
            "checks": [_finite(asdict(check)) | {"passed": check.passed} for check in self.checks],
        }


def run_gate(
    reference: TorchRunner,
    engine: Runner,
    selection: Selection,
    features: FeatureConfig,
    config: GateConfig,
    precision: str = "fp32",
    on_protein: Callable[[str], None] = lambda name: None,
) -> GateReport:
    """Fold the selected proteins with both runners, all passes of both, and compare by the limits of the engine's ``precision``.

    A network that reads templates folds one more protein with some, where none of the selected has any and ``config.templates`` is on.
    ``on_protein`` is told of each protein before it is folded.
    """
    if not selection.proteins:
        raise ValueError("the gate needs at least one protein")
    limits = config.limits(precision)
    checks: list[Check] = []
    folded: list[Folded] = []
    more = templated(selection, reference.config, features) if config.templates else ()
    for index, protein in enumerate((*selection.proteins, *more)):
        on_protein(f"{protein.name}, {protein.residues} residues, {protein.rows} alignment rows ({protein.origin})")
        cycles = inference_cycles(protein.record, features, config.seed, config.recycles + 1)
        if index == 0:
            checks += refusal(engine, cycles[0])
        ours, theirs = fold(reference, cycles), fold(engine, cycles)
        found = list(accuracy(protein.record, ours, theirs, reference.config.heads, limits))
        if found[0].passed:  # every value is finite
            found += pass_accuracy(protein.name, cycles, ours, theirs, reference, limits)
        checks += found
        checks += stability(protein.record, engine, cycles, theirs, config, limits)
        folded.append(_folded(protein, cycles[0], ours.last, theirs.last, reference))
    return GateReport(engine.name, reference.name, tuple(checks), precision, config.recycles, tuple(folded), selection.bins)


def require(report: GateReport) -> None:
    """Raise one FoldlineError that lists every check over its limit."""
    if report.failures:
        listed = "; ".join(str(check) for check in report.failures)
        raise FoldlineError(f"the {report.engine} engine does not fold like {report.reference}, so it is not published: {listed}")


def _folded(protein: GateProtein, batch: FeatureBatch, ours: Arrays, theirs: Arrays, reference: Runner) -> Folded:
    finite = all(np.isfinite(value).all() for value in theirs.values())
    return Folded(
        name=protein.name,
        residues=protein.residues,
        rows=protein.rows,
        clusters=int(batch.msa_mask.any(-1).sum()),
        extra=int(batch.extra_msa_mask.any(-1).sum()),
        origin=protein.origin,
        reference=_scores(protein, ours, reference),
        engine=_scores(protein, theirs, reference) if finite else None,
    )


def _scores(protein: GateProtein, outputs: Arrays, reference: Runner) -> Scores:
    comparison = compare(outputs["positions"], protein.record.positions, protein.record.mask)
    confidence = confidence_of(outputs, reference.config.heads)
    return Scores(None if comparison is None else comparison.lddt_ca, float(confidence.plddt.mean()), confidence.ptm)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, float) and not np.isfinite(value) else value for name, value in values.items()}


def _excess(check: Check) -> float:
    """Sorts checks; what is not a number is worst."""
    return float("inf") if np.isnan(check.value) else check.value
