"""What the gate measures: how far an engine's fold is from PyTorch's, and whether the engine does what every engine must."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..data_store.types import ChainRecord, FeatureBatch
from ..errors import FoldlineError
from .comparison import compare
from .confidence import confidence_of
from .config import GateConfig, Limits
from .graph import Arrays, crop_outputs, output_schema, pad_feeds, sizes_of
from .runners import Runner, State, feature_schema, features_of, fit, run_fitted

FINITE, ATOMS = "values that are not finite", "different atoms"
POSITION, RMSD, LDDT = "position error of the worst atom", "RMSD of all atoms", "change of lDDT-Cα"
PLDDT, MEAN_PLDDT = "change of pLDDT, worst residue", "change of mean pLDDT"
PTM, PAE = "change of pTM", "change of predicted aligned error, worst pair"
FIRST_DISTOGRAM, DISTOGRAM = "distogram probability error, first pass", "distogram probability error"
REPEAT, PADDED_POSITION, PADDED_PLDDT = "values that change when run again", "position change by padding", "pLDDT change by padding"
REFUSAL = "sizes outside the limits that are not refused"
ANY = "any"  # stands in place of a protein in a check of the engine itself
ROWS_AT_ONCE = 64  # of the distogram


@dataclass(frozen=True)
class Check:
    """One measured difference; a value that is not a number never passes."""

    protein: str
    name: str
    value: float
    limit: float
    unit: str
    note: str = ""

    @property
    def passed(self) -> bool:
        """Within the limit."""
        return bool(self.value <= self.limit)

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"{self.protein}: {self.name} {self.value:.4g}{self.unit}, limit {self.limit:.4g}{self.unit}{note}"


@dataclass(frozen=True)
class Fold:
    """One runner's fold of one protein: all outputs of the first pass and of the last one."""

    first: Arrays
    last: Arrays


def fold(runner: Runner, cycles: Sequence[FeatureBatch]) -> Fold:
    """All passes of ``cycles``, each fed by the one before on the runner's own device."""
    schema, n_res = output_schema(runner.config), len(cycles[0].aatype)
    state: State | None = None
    kept = []
    for index, batch in enumerate(cycles):
        state = runner.start(fit(features_of(batch, runner.config), runner), state)
        if index in (0, len(cycles) - 1):
            kept.append(crop_outputs(state.fetch(list(schema)), schema, n_res))
    return Fold(kept[0], kept[-1])


def accuracy(record: ChainRecord, ours: Fold, theirs: Fold, reference: Runner, limits: Limits) -> Iterator[Check]:
    """``ours``: PyTorch's fold; ``theirs``: the engine's. After all passes, but for one look at the first: a distance bin that recycling
    flips moves a probability by much, and would hide smaller errors of products there.
    """

    def check(name: str, value: float, limit: float, unit: str = "") -> Check:
        return Check(record.metadata.chain_id, name, value, limit, unit)

    heads, known, new = reference.config.heads, ours.last, theirs.last
    broken = sum(int((~np.isfinite(value)).sum()) for outputs in (theirs.first, new) for value in outputs.values())
    yield check(FINITE, float(broken), 0.0)
    if broken:
        return  # nothing else can be measured
    distance = np.linalg.norm(known["positions"] - new["positions"], axis=-1)[known["atom_mask"] > 0.5]
    yield check(POSITION, largest(distance), limits.position_error, " Å")
    yield check(RMSD, rms(distance), limits.rmsd, " Å")
    yield check(ATOMS, float((known["atom_mask"] != new["atom_mask"]).sum()), 0.0)
    before, after = (compare(outputs["positions"], record.positions, record.mask) for outputs in (known, new))
    if before is not None and after is not None:
        yield check(LDDT, abs(before.lddt_ca - after.lddt_ca), limits.lddt)
    sure, surer = confidence_of(known, heads), confidence_of(new, heads)
    yield check(PLDDT, largest(sure.plddt - surer.plddt), limits.plddt)
    yield check(MEAN_PLDDT, abs(float(sure.plddt.mean() - surer.plddt.mean())), limits.mean_plddt)
    if sure.ptm is not None and surer.ptm is not None:
        yield check(PTM, abs(sure.ptm - surer.ptm), limits.ptm)
    if sure.pae is not None and surer.pae is not None:
        yield check(PAE, largest(sure.pae - surer.pae), limits.pae, " Å")
    yield check(FIRST_DISTOGRAM, distogram_error(ours.first["distogram"], theirs.first["distogram"]), limits.first_distogram)
    yield check(DISTOGRAM, distogram_error(known["distogram"], new["distogram"]), limits.distogram)


def stability(
    record: ChainRecord, engine: Runner, batch: FeatureBatch, once: Arrays, config: GateConfig, limits: Limits
) -> Iterator[Check]:
    """The same input twice gives the same bits; padding changes nothing that is not padding. ``once``: the first pass, made before."""
    name = record.metadata.chain_id
    features, schema = features_of(batch, engine.config), feature_schema(engine.config)
    again = run_fitted(engine, features)
    different = sum(int((once[key].view(np.uint32) != again[key].view(np.uint32)).sum()) for key in once)
    yield Check(name, REPEAT, float(different), 0.0, "")
    sizes = {d: min(n + config.padding, engine.limits.get(d, (0, n + config.padding))[1]) for d, n in sizes_of(features, schema).items()}
    outputs = output_schema(engine.config)
    padded = crop_outputs(run_fitted(engine, pad_feeds(features, schema, sizes)), outputs, len(batch.aatype))
    moved = np.linalg.norm(once["positions"] - padded["positions"], axis=-1)[once["atom_mask"] > 0.5]
    yield Check(name, PADDED_POSITION, largest(moved), limits.position_error, " Å")
    shift = confidence_of(once, engine.config.heads).plddt - confidence_of(padded, engine.config.heads).plddt
    yield Check(name, PADDED_PLDDT, largest(shift), limits.plddt, "")


def refusal(engine: Runner, batch: FeatureBatch) -> Iterator[Check]:
    """Inputs outside the sizes that the engine was built for are errors that name the limit. Nothing for an engine without limits."""
    features, schema = fit(features_of(batch, engine.config), engine), feature_schema(engine.config)
    known = sizes_of(features, schema)
    taken = []
    for dim, (low, high) in engine.limits.items():
        for size, limit in ((low - 1, low), (high + engine.multiple, high)):
            if dim in known and size > 0 and not _refuses(engine, _resized(features, engine, dim, size), str(limit)):
                taken.append(f"{dim} = {size}")
    if engine.limits:
        yield Check(ANY, REFUSAL, float(len(taken)), 0.0, "", ", ".join(taken))


def distogram_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two distograms' probabilities, from logits [N_res, N_res, bins], a few rows at a time."""
    worst = 0.0
    for start in range(0, len(ours), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        difference = largest(_softmax(ours[rows]) - _softmax(theirs[rows]))
        worst = difference if np.isnan(difference) else max(worst, difference)
    return worst


def largest(values: np.ndarray) -> float:
    """The largest magnitude; NaN stays NaN."""
    return float(np.abs(values).max()) if values.size else 0.0


def rms(distance: np.ndarray) -> float:
    """Root mean square; 0 of nothing."""
    return float(np.sqrt(np.mean(distance.astype(np.float64) ** 2))) if distance.size else 0.0


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def _refuses(engine: Runner, features: Mapping[str, np.ndarray], limit: str) -> bool:
    try:
        engine.start(features, None).fetch(["positions"])
    except FoldlineError as error:
        return limit in str(error)
    except Exception:  # whatever the engine's library raised: the user is not told the limit
        return False
    return False


def _resized(features: Mapping[str, np.ndarray], engine: Runner, dim: str, size: int) -> Arrays:
    """``dim`` cut or padded to ``size``; the other dimensions stay within the limits."""
    schema = feature_schema(engine.config)
    cut = {name: features[name][tuple(slice(size if d == dim else None) for d in schema[name].dims)] for name in schema}
    return pad_feeds(cut, schema, {dim: size})
