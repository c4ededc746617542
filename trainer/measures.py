"""What a validation measures: the names that the journal, the tables and ``validate.metric`` use. docs/training.md defines each."""

from __future__ import annotations

from dataclasses import dataclass

from ..settings import nearest

SPLITS = ("trained", "validation")
SET = "validate/set"  # the journal's name for the number of the validation set


@dataclass(frozen=True)
class Measure:
    """``better`` is "higher" or "lower"; "" where neither end is good by itself. ``text`` is what tables print above it."""

    better: str
    text: str


# Of each chain; a set's value is the mean over its chains.
OF_CHAIN = {
    "lddt_ca": Measure("higher", "lDDT-Cα"),
    "lddt_all": Measure("higher", "lDDT"),
    "tm": Measure("higher", "TM"),
    "gdt_ts": Measure("higher", "GDT-TS"),
    "gdt_ha": Measure("higher", "GDT-HA"),
    "rmsd_ca": Measure("lower", "RMSD Å"),
    "drmsd_ca": Measure("lower", "dRMSD Å"),
    "plddt": Measure("", "pLDDT"),
    "contacts_24": Measure("higher", "P(L/5) ≥ 24"),
    "contacts_6": Measure("higher", "P(L/5) ≥ 6"),
    "violations": Measure("lower", "violated"),
    "bond_violations": Measure("lower", "bonds"),
    "inner_violations": Measure("lower", "inner"),
    "clash_violations": Measure("lower", "clashing"),
    "clashes": Measure("lower", "clashes / 100"),
}
# Of a whole set: all its residues, or all its pairs of residues, in one pool.
OF_SET = {
    "plddt_error": Measure("lower", "pLDDT calibration error"),
    "plddt_correlation": Measure("higher", "pLDDT correlation"),
    "pae_error": Measure("lower", "PAE calibration error Å"),
    "pae_correlation": Measure("higher", "PAE correlation"),
}
MEASURES = OF_CHAIN | OF_SET


def journal_name(split: str, measure: str) -> str:
    """The journal's and MLflow's name: "validate/validation/lddt_ca"."""
    return f"validate/{split}/{measure}"


def rankable() -> dict[str, bool]:
    """Names that checkpoints can be ranked by -> whether higher is better."""
    return {journal_name(split, name): m.better == "higher" for split in SPLITS for name, m in MEASURES.items() if m.better}


def ranking_problem(metric: str) -> str:
    """Why ``validate.metric`` cannot rank checkpoints, "" where it can."""
    names = rankable()
    return "" if metric in names else f"validate.metric = {metric!r} ranks nothing; {nearest(metric, names)}"
