"""What the gate measures: how far an engine's fold is from PyTorch's, and whether the engine does what every engine must."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..data_store.types import ChainRecord, FeatureBatch
from ..errors import FoldlineError
from ..model.config import HeadsConfig
from .comparison import compare
from .confidence import confidence_of
from .config import GateConfig, Limits
from .graph import RECYCLED, Arrays, crop_outputs, output_schema, pad_feeds, sizes_of
from .runners import Runner, State, TensorState, TorchRunner, feature_schema, features_of, fit, result_names, run_fitted

FINITE, ATOMS = "values that are not finite", "different atoms"
POSITION, RMSD, LDDT = "position error of the worst atom", "RMSD of all atoms", "change of lDDT-Cα"
PLDDT, MEAN_PLDDT = "change of pLDDT, worst residue", "change of mean pLDDT"
PTM, PAE = "change of pTM", "change of predicted aligned error, worst pair"
DISTOGRAM = "distogram probability error"
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
    """One runner's fold of one protein: all outputs of each pass."""

    passes: tuple[Arrays, ...]

    @property
    def last(self) -> Arrays:
        """The outputs after all passes."""
        return self.passes[-1]


def fold(runner: Runner, cycles: Sequence[FeatureBatch]) -> Fold:
    """All passes of ``cycles``, each fed by the one before on the runner's own device."""
    schema, n_res = output_schema(runner.config), len(cycles[0].aatype)
    state: State | None = None
    passes = []
    for batch in cycles:
        state = runner.start(fit(features_of(batch, runner.config), runner), state)
        passes.append(crop_outputs(state.fetch(list(schema)), schema, n_res))
    return Fold(tuple(passes))


def accuracy(record: ChainRecord, ours: Fold, theirs: Fold, heads: HeadsConfig, limits: Limits) -> Iterator[Check]:
    """After all passes. ``ours``: PyTorch's fold; ``theirs``: the engine's."""

    def check(name: str, value: float, limit: float, unit: str = "") -> Check:
        return Check(record.metadata.chain_id, name, value, limit, unit)

    broken = sum(int((~np.isfinite(value)).sum()) for outputs in theirs.passes for value in outputs.values())
    yield check(FINITE, float(broken), 0.0)
    if broken:
        return  # nothing else can be measured
    known, new = ours.last, theirs.last
    yield check(RMSD, rms(_apart(known, new)), limits.rmsd, " Å")
    yield check(ATOMS, float((known["atom_mask"] != new["atom_mask"]).sum()), 0.0)
    before, after = (compare(outputs["positions"], record.positions, record.mask) for outputs in (known, new))
    if before is not None and after is not None:
        yield check(LDDT, abs(before.lddt_ca - after.lddt_ca), limits.lddt)
    sure, surer = confidence_of(known, heads), confidence_of(new, heads)
    yield check(MEAN_PLDDT, abs(float(sure.plddt.mean() - surer.plddt.mean())), limits.mean_plddt)
    if sure.ptm is not None and surer.ptm is not None:
        yield check(PTM, abs(sure.ptm - surer.ptm), limits.ptm)


def pass_accuracy(
    name: str, cycles: Sequence[FeatureBatch], ours: Fold, theirs: Fold, reference: TorchRunner, limits: Limits
) -> Iterator[Check]:
    """The worst atom, residue and pair, pass by pass: PyTorch repeats each pass from what the engine recycled.

    Recycling puts distances into bins. A distance that rounding moves over an edge changes single probabilities by a hundredth and more, in
    float32 as well, so two whole folds cannot be compared pair by pair; one pass on the same input can.
    """
    heads = reference.config.heads
    worst = dict.fromkeys((POSITION, PLDDT, DISTOGRAM, PAE), 0.0)
    for index, (batch, made) in enumerate(zip(cycles, theirs.passes, strict=True)):
        known = ours.passes[0] if index == 0 else _repeated(reference, batch, theirs.passes[index - 1])
        before, after = confidence_of(known, heads), confidence_of(made, heads)
        found = {
            POSITION: largest(_apart(known, made)),
            PLDDT: largest(before.plddt - after.plddt),
            DISTOGRAM: distogram_error(known["distogram"], made["distogram"]),
            PAE: 0.0 if before.pae is None or after.pae is None else largest(before.pae - after.pae),
        }
        worst = {check: worse(worst[check], value) for check, value in found.items()}
    yield Check(name, POSITION, worst[POSITION], limits.position_error, " Å")
    yield Check(name, PLDDT, worst[PLDDT], limits.plddt, "")
    yield Check(name, DISTOGRAM, worst[DISTOGRAM], limits.distogram, "")
    if heads.pae_enabled:
        yield Check(name, PAE, worst[PAE], limits.pae, " Å")


def _apart(ours: Arrays, theirs: Arrays) -> np.ndarray:
    """Distance of each atom, ångström, without superposing."""
    return np.asarray(np.linalg.norm(ours["positions"] - theirs["positions"], axis=-1)[ours["atom_mask"] > 0.5])


def _repeated(reference: TorchRunner, batch: FeatureBatch, previous: Arrays) -> Arrays:
    """One pass of PyTorch from an engine's recycled tensors."""
    recycled = {name: torch.from_numpy(previous[name]).to(reference.device) for name in RECYCLED.values()}
    state = reference.start(features_of(batch, reference.config), TensorState(recycled))
    return state.fetch(result_names(reference.config))


def stability(
    record: ChainRecord, engine: Runner, cycles: Sequence[FeatureBatch], made: Fold, config: GateConfig, limits: Limits
) -> Iterator[Check]:
    """The same input twice gives the same bits, in every pass; padding changes nothing that is not padding. ``made``: the fold before."""
    name = record.metadata.chain_id
    batch, once = cycles[0], made.passes[0]
    features, schema = features_of(batch, engine.config), feature_schema(engine.config)
    pairs = zip(made.passes, fold(engine, cycles).passes, strict=True)
    different = sum(int((one[key].view(np.uint32) != again[key].view(np.uint32)).sum()) for one, again in pairs for key in one)
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
        worst = worse(worst, largest(_softmax(ours[rows]) - _softmax(theirs[rows])))
    return worst


def worse(one: float, other: float) -> float:
    """The larger of two errors; what is not a number is worst."""
    return one if np.isnan(one) or one > other else other


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
