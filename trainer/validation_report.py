"""A validation as numbers: means with confidence intervals by split and length; as JSON, as a table of chains, as journal names."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .calibration import Calibration, add
from .measures import OF_CHAIN, SPLITS, journal_name
from .score import ChainScore

SCHEMA = 1
RESAMPLES = 1000
SEED = 0
LEVEL = 95.0  # per cent
LONGEST = (100, 200, 400, 800, math.inf)  # residues; the upper ends of the length bins

Report = dict[str, Any]  # the form of RUN/validation/step_N.json


def make_report(scores: Sequence[ChainScore], digest: str, step: int, weights: str) -> Report:
    """``digest`` is the validation set's; ``weights`` the sha256 of the file that was validated, "" for weights that were in none."""
    splits = {}
    for split in SPLITS:
        chosen = [score for score in scores if score.split == split]
        if chosen:
            splits[split] = _of_set(chosen) | {"by_length": _by_length(chosen)}
    return {
        "schema": SCHEMA,
        "step": step,
        "set": digest,
        "weights": weights,
        "splits": splits,
        "chains": {s.chain_id: {"split": s.split, "residues": len(s.mask), **_finite(s.values, 4)} for s in scores},
    }


def journal_means(report: Report) -> dict[str, float]:
    """The report's means under the journal's names, "validate/trained/lddt_ca" and so on; what is not defined is left out."""
    means: dict[str, float] = {}
    for split, found in report["splits"].items():
        of_set = {f"{kind}_{name}": found["calibration"][kind][name] for kind in found["calibration"] for name in ("error", "correlation")}
        for name, value in (found["measures"] | of_set).items():
            if value["mean"] is not None:
                means[journal_name(split, name)] = value["mean"]
    return means


def chain_table(report: Report) -> str:
    """One line per chain, comma-separated, every measure in ångström, shares or points as docs/training.md defines it."""
    text = io.StringIO()
    table = csv.DictWriter(text, ["chain", "split", "residues", *OF_CHAIN], lineterminator="\n")
    table.writeheader()
    table.writerows({"chain": chain, **values} for chain, values in report["chains"].items())
    return text.getvalue()


def _of_set(scores: Sequence[ChainScore]) -> dict[str, Any]:
    draws = _draws(len(scores))
    measures = {name: _mean(np.array([score.values[name] for score in scores]), draws) for name in OF_CHAIN}
    kinds = {"plddt": [score.plddt_pairs for score in scores], "pae": [s.pae_pairs for s in scores if s.pae_pairs is not None]}
    calibration = {kind: _calibration(parts, draws) for kind, parts in kinds.items() if parts}
    return {"chains": len(scores), "measures": measures, "calibration": calibration}


def _by_length(scores: Sequence[ChainScore]) -> list[dict[str, Any]]:
    found, shortest = [], 1
    for longest in LONGEST:
        chosen = [score for score in scores if shortest <= len(score.mask) <= longest]
        if chosen:
            found.append({"from": shortest, "to": longest if math.isfinite(longest) else None, **_of_set(chosen)})
        shortest = int(longest) + 1 if math.isfinite(longest) else shortest
    return found


def _draws(chains: int) -> np.ndarray:
    """[RESAMPLES, chains] how often each chain comes up in each resample; the same for the same number of chains."""
    return np.random.default_rng(SEED).multinomial(chains, np.full(chains, 1 / chains), RESAMPLES).astype(np.float64)


def _mean(values: np.ndarray, draws: np.ndarray) -> dict[str, Any]:
    """Mean over the chains where the measure is defined, and its interval."""
    defined = np.isfinite(values)
    counts = draws @ defined
    totals = draws @ np.where(defined, values, 0.0)
    resampled = totals[counts > 0] / counts[counts > 0]
    mean = values[defined].mean() if defined.any() else math.nan
    return _interval(float(mean), resampled, int(defined.sum()))


def _calibration(parts: Sequence[Calibration], draws: np.ndarray) -> dict[str, Any]:
    together, resampled = add(parts), add(parts, draws)
    return {
        "error": _interval(float(together.error), resampled.error, len(parts)),
        "correlation": _interval(float(together.correlation), resampled.correlation, len(parts)),
        "table": [_finite(row, 6) for row in together.table()],
    }


def _interval(value: float, resampled: np.ndarray, chains: int) -> dict[str, Any]:
    """``low`` and ``high`` bound the middle LEVEL per cent of the resampled values; None for fewer than two chains."""
    ends = [math.nan, math.nan]
    resampled = resampled[np.isfinite(resampled)]
    if chains > 1 and len(resampled):
        ends = np.percentile(resampled, [(100 - LEVEL) / 2, (100 + LEVEL) / 2]).tolist()
    return _finite({"mean": value, "low": ends[0], "high": ends[1]}, 12) | {"chains": chains}


def _finite(values: dict[str, float], digits: int) -> dict[str, float | None]:
    return {name: round(value, digits) if math.isfinite(value) else None for name, value in values.items()}
